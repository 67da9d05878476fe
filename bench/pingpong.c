/* Measures a round trip between two processes over a pair of pipes: the minimum for an answer of another process.
 * Prints the median of N round trips in nanoseconds. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { N = 20000 };
static long long taken[N];

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    long long x = *(const long long *)a, y = *(const long long *)b;
    return (x > y) - (x < y);
}

int main(void)
{
    int there[2], back[2];
    char byte = 0;
    if (pipe(there) || pipe(back))
        return 1;
    pid_t child = fork();
    if (child < 0)
        return 1;
    if (child == 0) {
        close(there[1]);
        while (read(there[0], &byte, 1) == 1)
            if (write(back[1], &byte, 1) != 1)
                return 1;
        return 0;
    }
    for (int i = 0; i < N; i++) {
        long long begun = now();
        if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
            return 1;
        taken[i] = now() - begun;
    }
    qsort(taken, N, sizeof taken[0], compare);
    printf("%lld\n", taken[N / 2]);
    return 0;
}

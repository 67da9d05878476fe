// Opens the device, which it can do once. Java has no ioctl: tests/emulator/machine/test_programs.py.
import java.io.IOException;
import java.io.RandomAccessFile;

public class Device {
    public static void main(String[] arguments) throws IOException {
        try (RandomAccessFile device = new RandomAccessFile("/dev/liveupdate", "rw")) {
            try {
                new RandomAccessFile("/dev/liveupdate", "rw").close();
                System.out.println("opened twice");
            } catch (IOException busy) {
                System.out.println(busy.getMessage().contains("busy") ? "the device" : busy.getMessage());
            }
        }
    }
}

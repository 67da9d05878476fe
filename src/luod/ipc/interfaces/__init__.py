"""The Varlink interfaces as types, and the .varlink files that are generated from them."""

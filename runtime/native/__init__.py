"""The native runner: C++ sources that ship with the package, and the code that builds them."""

"""What all tests share. Fixtures of one part of the tests live beside that part."""

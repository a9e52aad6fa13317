import unittest

from hello import greet


class GreetTest(unittest.TestCase):
    def test_greets_the_world(self):
        self.assertEqual(greet(), "Hello, world!")

    def test_greets_by_name(self):
        self.assertEqual(greet("  Ada "), "Hello, Ada!")

    def test_refuses_nobody(self):
        with self.assertRaises(ValueError):
            greet("  ")


if __name__ == "__main__":
    unittest.main()

"""Says hello."""


def greet(name: str = "world") -> str:
    """Return a greeting for `name`.  Raises ValueError for an empty name."""
    if not name.strip():
        raise ValueError("the name is empty")
    return f"Hello, {name.strip()}!"

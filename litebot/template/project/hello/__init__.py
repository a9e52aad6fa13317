"""Says hello."""


def greet(name: str = "world") -> str:
    """A greeting for `name`; an empty name is nobody's and raises ValueError."""
    if not name.strip():
        raise ValueError("whom to greet?")
    return f"Hello, {name.strip()}!"

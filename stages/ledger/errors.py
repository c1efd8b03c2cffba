"""What to say of an error: one sentence where it is the user's or the machine's to mend."""


def sentence(error: BaseException) -> str | None:
    """The sentence, None for faults of the program, of which a traceback tells more."""
    if "No space left on device" in str(error):  # libraries wrap it in errors of their own
        full = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        return f"no space left on device{full}: free some and run it again, no earlier result is lost"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror.lower()}"
    return str(error) if isinstance(error, ValueError | OSError) else None

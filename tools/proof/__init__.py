"""Tools that prove the safety layer; they share no code with it."""

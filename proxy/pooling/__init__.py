"""What an upstream is to those who share it: lines, replies owed, what it holds and has set. Pure."""

"""The one exception for problems that the user can fix."""


class UserError(Exception):
    """A problem the user can fix; its text is one sentence that names the thing and the fix.

    Nodes and commands print the text without a traceback and exit with status 1.
    """

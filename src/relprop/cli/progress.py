"""The line that says what takes long, as the commands show it."""

from relprop.progress import Progress as Progress

"""A thousand streams through a proxy need a few thousand open files."""

import resource


def raise_limit() -> None:
    """Raise this process's limit, which its children inherit, as far as it may go."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

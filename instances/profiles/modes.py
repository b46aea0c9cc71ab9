"""What an engine is when its user's own arguments make it another kind of server: one for embeddings, say. Pure."""

from collections.abc import Sequence

import msgspec

from slotproxy.instances.profiles.profile import Mode, Profile

DEFAULT_POOLING = "mean"  # of a model that does not say how the states of its tokens become one embedding


def applied(profile: Profile, given: Sequence[str]) -> Profile:
    """The profile that holds with what was `given` after `--`."""
    mode = chosen(profile, given)
    if mode is None:
        return profile
    return msgspec.structs.replace(profile, args=(*profile.args, *mode.args), warm_up=mode.warm_up)


def chosen(profile: Profile, given: Sequence[str]) -> Mode | None:
    """The first mode that has one of the flags `given`; None: none has."""
    flags = {argument.partition("=")[0].replace("_", "-") for argument in given}
    return next((mode for mode in profile.modes if flags & set(mode.flags)), None)

"""Context of a request: what is asked of an engine, and whether it gives it. Pure."""

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.profiles.profile import Profile


def wanted(profile: Profile, asked: int | None, trained: int | None, *, overridden: bool = False) -> int:
    """Tokens each instance is told to have, which with its one slot is what a request has. Raises ConfigurationError.

    `asked`: what the user said; None: the profile's, or less where the model was trained for less. `overridden`: there
    are arguments of the user's own, which may change what the engine takes the model to be trained for.
    """
    capped = profile.context.capped and trained is not None and not overridden
    if asked is None:
        return min(profile.ctx, trained) if capped and trained is not None else profile.ctx
    if capped and trained is not None and asked > trained:
        raise ConfigurationError(
            f"--ctx-size {asked} is more than the {trained} tokens the model was trained for, and {profile.name} gives "
            f"a request no more than that; give --ctx-size {trained} or less"
        )
    return asked


def discrepancy(profile: Profile, asked: int, found: int | None, trained: int | None) -> str | None:
    """What is wrong if an engine that was told `asked` tokens says `found`; None: nothing, or it does not say."""
    rule = profile.context
    rounded = -(-asked // rule.multiple) * rule.multiple
    if found is None or found in (asked, rounded):
        return None
    sentence = f"{profile.name} gives each request {found} tokens of context, not the {asked} it was told"
    if found == trained and found < asked:
        return f"{sentence}: the model was trained for no more; give --ctx-size {found}"
    if rule.divided and found < asked:
        return f"{sentence}: it divides its context among slots and has several; take that out of its arguments"
    return f"{sentence}; say what you want with --ctx-size {found}, and not in its own arguments"

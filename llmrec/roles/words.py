"""Word lists: what asks and connects, and what describes a mood."""

from __future__ import annotations

_COMMON = """
a all an and any are as at be but by can do for from get give good great had has have her him his how i if in is
it its like me more my new no not of on one or our out please seen she show so some than that the their them
then they thing this to up us very want was watch we were what when which who will with without would you your
film movie item product
"""
_FILLER = """
able about absolutely actually after afternoon ah already also although always amazing am another anybody anyone
anything ask away back because been before being best better between both bring call come could day did
different does done each either else enjoy enough especially even evening ever every everything fan favourite
feel feeling fan few find fine first found friend fun game getting glad gonna guess hello help here hey hi hmm
honestly hope idea instead into just keep kind know last least leave less let little ll longer look looking lot
love loved lovely made make many may maybe might mind minute mood month most much must need never next nice
night oh ok okay once only other otherwise own perhaps pick plea pleasant prefer pretty probably rather re real
really recommend recommendation right same say see seeing seem shall should similar since somebody someone
something sometime soon sorry sort spare starring featuring still stuff such suggest suggestion surprise sure
take tell than thank that'd thing think through till time title today tonight too totally tried try two ugh
under usually ve via was way well were whatever where whether which while whole why wish wonder would yeah year
yes yet d don doesn didn isn can cannot series directed hour minutes s t m
"""
_MOODS = """
atmospheric bittersweet bleak chaotic claustrophobic contemplative cynical dark-humoured deadpan dreamlike eerie
elegant epic exuberant fast-paced feel-good gritty gory heartwarming hopeful intimate ironic lyrical melancholic
menacing mind-bending nostalgic playful poetic provocative quirky raw rousing sad satirical scary sensual slow-
burn stylised surreal suspenseful tender tense thrilling tragic unsettling uplifting violent warm whimsical
witty
"""
_ADJECTIVES = """
funny comic spooky frightening creepy scary romantic animated dramatic slow cheerful happy depressing dark weird
strange twisty dreamy gripping bloody family-friendly american british french italian german spanish swedish
danish polish russian soviet japanese korean chinese taiwanese indian iranian mexican brazilian australian irish
canadian
"""

COMMON = frozenset(_COMMON.split())
"""Words of requests, which are never names of values even if a catalogue has such a one-word value."""
FILLER = COMMON | frozenset(_FILLER.split())
"""Words that ask, greet and connect; they say nothing about an item. Folded, as `llmrec.roles.matching.fold` does."""
MOODS = frozenset(_MOODS.split())
"""Values of the embedded films' keywords that are spoken as adjectives."""
ADJECTIVES = frozenset(_ADJECTIVES.split())
"""Synonyms that are spoken as adjectives."""

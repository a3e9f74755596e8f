"""More ways of talking, written for training tool callers: what small models must have read to understand people.

Families group constructions, not topics. No construction of the held-out families of `llmrec.roles.voices` occurs here
(a test holds that); single words of refusing do, since a language has only so many. Two families,
`DEVELOPMENT_FAMILIES`, choose checkpoints and settings, so that the held-out ones are looked at once.
"""

from __future__ import annotations

from llmrec.roles.inventory_more import CASUAL, CHILD, CURIOUS, LEARNER, LETTER, PICKY, lines
from llmrec.roles.inventory_words import FEELING, RANKING, VERDICT
from llmrec.roles.voices import HELD_OUT_FAMILIES, TRAIN_FAMILIES, VOICES, Voice

DIRECT = Voice(
    want=lines("""
        Give me {np}.
        Find {np}.
        Find me {np} please.
        List {np}.
        Bring up {np}.
        I need {np}.
        Get me {np}."""),
    avoid=lines("""
        Never {refused}.
        Leave {refused} out.
        Exclude {refused}.
        Do not show me {refused}.
        Do not give me {refused}.
        Remove {refused}.
        Anything but {refused}.
        Not one with {refused}.
        Avoid {refused}.
        Omit anything with {refused}.
        Skip everything with {refused}."""),
    like=lines("""
        Find more like {titles}.
        I want another {titles}.
        Give me the same kind as {titles}.
        Match {titles}.
        I enjoyed {titles}.
        I am a fan of {titles}."""),
    dislike=lines("""
        I dislike {titles}.
        {titles} was bad.
        I do not like {titles}.
        Never again {titles}.
        {titles} is overrated.
        I gave up on {titles}."""),
    seen=lines("""
        I have watched {titles}.
        I saw {titles}.
        I own {titles}.
        Already saw {titles}.
        {titles} I know."""),
    plot=lines("""
        Find the {noun} where {rest}.
        Search for {rest}.
        Look for a {noun} with {rest}."""),
    vague=lines("""
        Choose for me.
        Pick something.
        Give me your best.
        Show me anything good.
        You decide."""),
    chat=lines("""
        Okay.
        Good.
        Right.
        Stop.
        That is enough for now.
        Perfect."""),
    refine=lines("""
        Change it to {np}.
        Switch to {np}.
        Limit it to {np}.
        Make them {adjective}."""),
    refuse=lines("""
        Replace those.
        Not these.
        Drop those.
        I saw all of those.
        I have watched these."""),
    unservable=lines("""
        Turn on the lights.
        Set an alarm for seven.
        Order a pizza.
        Call my brother.
        Translate this sentence.
        Buy two tickets for me."""),
    correct=lines("""
        Correction: {np}, not {refused}.
        I meant {np}, not {refused}.
        Cancel {refused}. Give me {np}."""),
)
WISHING = Voice(
    want=lines("""
        I wish there were {np}.
        I hope to find {np}.
        I dream of {np}.
        If only I could find {np}.
        What I want most is {np}.
        All I want is {np}.
        I have a craving for {np}."""),
    avoid=lines("""
        I hope there is no {refused} in it.
        I wish to see nothing of {refused}.
        If only it had no {refused}.
        What I do not want is {refused}.
        The last thing I want is {refused}.
        I would hate to see {refused}.
        I have no wish for {refused}.
        It must not have {refused}.
        It should not have any {refused}."""),
    like=lines("""
        I wish there were more like {titles}.
        If it is half as good as {titles}, I am happy.
        What I liked most was {titles}.
        {titles} made me happy.
        I adore {titles}."""),
    dislike=lines("""
        I wish I had not watched {titles}.
        I regret {titles}.
        {titles} made me sad for two hours, never again.
        I hoped for more from {titles}."""),
    seen=lines("""
        I have {titles} behind me.
        I watched {titles} before.
        I hope it is not {titles}, I have seen it."""),
    plot=lines("""
        I hope to find a {noun} where {rest}.
        I wish I knew the {noun} with {rest}."""),
    vague=lines("""
        I hope you have something for me.
        I wish to be surprised.
        I just hope for a good evening.
        Anything that makes me happy."""),
    chat=lines("""
        I hope you are well.
        I wish you a nice day.
        That makes me happy.
        Sweet dreams.
        I am so glad."""),
    refine=lines("""
        I wish it were {np}.
        I was hoping for {np}.
        I hoped for something {adjective}."""),
    refuse=lines("""
        I hoped for others than those.
        I wish these were new to me, I have seen them.
        I hoped for better than these."""),
    unservable=lines("""
        I wish it would rain tomorrow.
        I hope my train is on time, is it?
        Can you wish my mother a happy birthday?"""),
    correct=lines("""
        I wish I had said {np} and not {refused}.
        What I hoped for is {np}, not {refused}."""),
)
GROUP = Voice(
    want=lines("""
        We want {np}.
        We are looking for {np}.
        My wife would love {np}.
        For the kids we need {np}.
        Our club meets for {np}.
        Everyone here votes for {np}.
        My boyfriend insists on {np}."""),
    avoid=lines("""
        We do not want {refused}.
        My wife hates {refused}.
        My husband refuses {refused}.
        The kids must not see {refused}.
        Nobody here likes {refused}.
        None of us can stand {refused}.
        My mother does not like {refused}.
        We all dislike {refused}.
        We have had enough of {refused}.
        Dad will leave if there is {refused}.
        My friends voted against {refused}."""),
    like=lines("""
        We all loved {titles}.
        The kids keep asking for {titles}.
        My wife loves {titles}.
        {titles} was a hit with all of us.
        We liked {titles} a lot."""),
    dislike=lines("""
        We all hated {titles}.
        Nobody liked {titles}.
        My husband slept through {titles}.
        The kids did not like {titles}.
        We turned {titles} off."""),
    seen=lines("""
        We have seen {titles}.
        The kids know {titles} by heart.
        We saw {titles} at the cinema.
        All of us have watched {titles}."""),
    plot=lines("""
        We are trying to remember the {noun} where {rest}.
        My wife talks about a {noun} in which {rest}."""),
    vague=lines("""
        We need something for tonight.
        What can the whole family watch?
        Nobody here knows what to watch.
        Pick something for all of us."""),
    chat=lines("""
        We are all here now.
        The kids say hello.
        We had a good time, thank you.
        My wife says thanks."""),
    refine=lines("""
        We would now like {np}.
        My wife asks for {np} instead.
        The kids want it {adjective}."""),
    refuse=lines("""
        We know all of those.
        We have seen those before.
        We do not like those.
        None of those for us."""),
    unservable=lines("""
        Who of us should cook dinner?
        Can you book a table for six of us?
        What should we name our dog?"""),
    correct=lines("""
        We changed our minds: {np}, no {refused}.
        My wife says not {refused}, she wants {np}."""),
)
TIRED = Voice(
    want=lines("""
        I could use {np} now.
        After this week I need {np}.
        All I can handle is {np}.
        {np} would be just right.
        Just {np}, that is all.
        Time for {np}."""),
    avoid=lines("""
        I cannot take {refused} today.
        I cannot handle {refused}.
        Spare me {refused}.
        I have seen enough {refused}.
        I am sick of {refused}.
        I am fed up with {refused}.
        I am bored of {refused}.
        Enough of {refused}.
        Enough {refused} for this year.
        I am done with {refused}.
        I have no energy for {refused}.
        {refused} would be too much for me.
        {refused}? Not today.
        {refused} puts me off."""),
    like=lines("""
        {titles} always cheers me up.
        I can watch {titles} again and again.
        {titles} never gets old.
        What helped last time was {titles}."""),
    dislike=lines("""
        {titles} put me to sleep.
        {titles} was a waste of time.
        {titles} was too long and too dull.
        I fell asleep during {titles}."""),
    seen=lines("""
        I watched {titles} yesterday.
        I have been through {titles} twice.
        {titles} was on last night, I watched it."""),
    plot=lines("""
        There is this {noun} where {rest}, I forgot the name.
        I only remember {rest}."""),
    vague=lines("""
        I am too tired to choose.
        I cannot think, choose for me.
        Just play something.
        It does not matter what it is."""),
    chat=lines("""
        What a day.
        I am so tired.
        Good night.
        I am going to bed now."""),
    refine=lines("""
        I would rather go for {np} now.
        On second thought {np}.
        It needs to be more {adjective}."""),
    refuse=lines("""
        I am tired of those.
        Not those, please.
        I have watched all of them already.
        None of them today."""),
    unservable=lines("""
        Make me a coffee.
        Can you do my laundry?
        How do I get more sleep?
        Wake me up at six."""),
    correct=lines("""
        Forget {refused}, I am too tired. {np}.
        Sorry, I mixed that up: {np}, not {refused}."""),
)
TEXTING = Voice(
    want=lines("""
        any {np}?
        u have {np}?
        looking 4 {np}
        im after {np}
        pls {np}
        wanna see {np}
        in the mood for {np}
        rec me {np}"""),
    avoid=lines("""
        dont want {refused}
        nothing {refused}
        cant do {refused}
        hate {refused}
        {refused} no thanks
        {refused} = no
        pls no {refused}
        {refused} not my thing
        never {refused} again
        w/o {refused}
        cant stand {refused}
        {refused} nope"""),
    like=lines("""
        {titles} was great
        luv {titles}
        {titles} is the best
        smth like {titles}
        {titles} vibes"""),
    dislike=lines("""
        {titles} was so bad
        {titles} = boring
        not a fan of {titles}
        didnt like {titles}
        {titles} was trash"""),
    seen=lines("""
        already watched {titles}
        saw {titles} 2x
        i know {titles}"""),
    plot=lines("""
        that {noun} w/ {rest}
        whats the {noun} where {rest}"""),
    vague=lines("""
        idk
        idk what to watch
        anything good?
        ur choice
        smth good pls"""),
    chat=lines("""
        hiya
        heyy
        ty
        k
        nice one
        gn
        brb
        great thx"""),
    refine=lines("""
        ok but {np}
        {np} pls
        sth more {adjective}"""),
    refuse=lines("""
        seen these
        know these
        dont like those
        nah not these"""),
    unservable=lines("""
        whats the weather
        who won the game
        tell me a joke
        whats 12 x 12
        text my mum"""),
    correct=lines("""
        oops meant {np} not {refused}
        no wait {np}, no {refused}"""),
)
CRITIC = Voice(
    want=lines("""
        I am researching {np}.
        My next review is on {np}.
        Few things beat {np}.
        I have a weakness for {np}.
        I am in search of {np}.
        My preference is {np}."""),
    avoid=lines("""
        I have little patience for {refused}.
        I find {refused} tedious.
        {refused} does nothing for me.
        {refused} leaves me cold.
        I have no interest in {refused}.
        I object to {refused}.
        I detest {refused}.
        I steer clear of {refused}.
        I never understood the appeal of {refused}.
        {refused} ruins it for me.
        I draw the line at {refused}."""),
    like=lines("""
        I rate {titles} highly.
        {titles} is a masterpiece.
        {titles} is among the finest.
        I admire {titles}.
        Five stars for {titles}."""),
    dislike=lines("""
        {titles} is a failure.
        I found {titles} tedious.
        One star for {titles}.
        {titles} fell flat.
        {titles} left me cold."""),
    seen=lines("""
        I have reviewed {titles}.
        {titles} I studied at school.
        I have seen {titles} many times."""),
    plot=lines("""
        I am researching a {noun} in which {rest}.
        Which {noun} deals with {rest}?"""),
    vague=lines("""
        What is worth my time?
        Convince me.
        What have I missed?
        Show me your finest."""),
    chat=lines("""
        Interesting.
        A fair point.
        I disagree.
        Well argued.
        Thank you for the conversation."""),
    refine=lines("""
        A better choice would be {np}.
        I would sooner see {np}.
        Something more {adjective}, I think."""),
    refuse=lines("""
        Those are beneath me.
        I have reviewed all of those.
        Those leave me cold.
        I have seen all of these many times."""),
    unservable=lines("""
        Write my review for me.
        Explain the theory of relativity.
        Who should win the election?"""),
    correct=lines("""
        Let me rephrase: {np}, certainly not {refused}.
        Strike {refused} and make that {np}, I misspoke."""),
)

MORE_VOICES: dict[str, Voice] = {
    "direct": DIRECT,
    "wishing": WISHING,
    "group": GROUP,
    "tired": TIRED,
    "texting": TEXTING,
    "critic": CRITIC,
    "curious": CURIOUS,
    "learner": LEARNER,
    "child": CHILD,
    "letter": LETTER,
    "picky": PICKY,
    "casual": CASUAL,
    "verdict": VERDICT,
    "feeling": FEELING,
    "ranking": RANKING,
}
ALL_VOICES: dict[str, Voice] = {**VOICES, **MORE_VOICES}
"""Every family by name, those of `llmrec.roles.voices` included."""
DEVELOPMENT_FAMILIES: tuple[str, ...] = ("critic", "letter")
"""Their loss chooses checkpoints; no training example is in their words."""
TOOL_FAMILIES: tuple[str, ...] = tuple(
    name for name in (*TRAIN_FAMILIES, *MORE_VOICES) if name not in (*DEVELOPMENT_FAMILIES, *HELD_OUT_FAMILIES)
)
"""Families that tool callers are trained on."""

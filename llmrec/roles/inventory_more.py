"""The second half of `llmrec.roles.inventory`: questions, learners, children, letters, picky and casual people."""

from __future__ import annotations

from llmrec.roles.voices import Voice


def lines(text: str) -> tuple[str, ...]:
    """One template per line."""
    return tuple(line.strip() for line in text.strip().splitlines())


CURIOUS = Voice(
    want=lines("""
        Which {nouns} would you call {np}?
        Where do I find {np}?
        Have you ever heard of {np}?
        Does {np} exist?
        How about {np}?
        Do you see {np} anywhere for me?
        Are there {nouns} like that, {np}?"""),
    avoid=lines("""
        Is there one with no {refused}?
        Why is there so much {refused}? I do not like it.
        Can you make sure there is no {refused}?
        Could it be free of {refused}?
        Does it have to have {refused}? I would rather not.
        Who likes {refused}? Not me.
        What about something other than {refused}?
        Can we avoid {refused}?
        How do I get rid of {refused}?
        Would you please exclude {refused}?"""),
    like=lines("""
        What should I see after {titles}?
        Which {nouns} resemble {titles}?
        If I liked {titles}, what is next?
        Is anything as good as {titles}?"""),
    dislike=lines("""
        Why does everybody like {titles}? I do not.
        Was {titles} supposed to be good? I hated it.
        How could anyone enjoy {titles}?"""),
    seen=lines("""
        Besides {titles}, which I have seen, what is there?
        What is there apart from {titles}, I watched it?
        I watched {titles} already, what next?"""),
    plot=lines("""
        Which {noun} is it where {rest}?
        Do you know the {noun} where {rest}?
        What was it called, the one about {rest}?"""),
    vague=lines("""
        What is good?
        What would you watch?
        What is everybody watching?
        Can you choose something for me?
        Do you have a tip?"""),
    chat=lines("""
        What is your name?
        How does this work?
        Are you a person?
        Did you sleep well?
        Can I ask you something?"""),
    refine=lines("""
        Is there also {np}?
        And if it were {np}?
        Could you show me {np} now?
        Can it be a bit more {adjective}?"""),
    refuse=lines("""
        Do you have others than those?
        Is there nothing but those?
        Did I not watch those already?
        Why those? I do not like those."""),
    unservable=lines("""
        What is the capital of Peru?
        How do I bake bread?
        What time is it in Tokyo?
        Can you fix my computer?
        How far away is the moon?
        Will it snow this weekend?"""),
    correct=lines("""
        Did I say {refused}? I meant {np}.
        Can we forget about {refused} and try {np}?"""),
)
LEARNER = Voice(
    want=lines("""
        Please, I search {np}.
        I want see {np}.
        You have for me {np}?
        For practice English I want {np}.
        I like very much {np}, please show.
        It must be {np}, please."""),
    avoid=lines("""
        But not {refused}, please.
        I not like {refused}.
        {refused} I not want.
        {refused} is not good for me.
        Please without any {refused}.
        No want {refused}.
        I have fear of {refused}.
        In my country we not watch {refused}.
        {refused} please not."""),
    like=lines("""
        I like very much {titles}.
        {titles} is very good for me.
        Same like {titles}, please.
        My teacher showed {titles}, I liked it."""),
    dislike=lines("""
        {titles} I not like.
        {titles} is not good.
        I not understand {titles}, very boring."""),
    seen=lines("""
        I watched {titles} in my language.
        {titles} I have seen in school.
        I already see {titles}."""),
    plot=lines("""
        I search the {noun}, in it {rest}.
        How is the name of {noun} with {rest}?"""),
    vague=lines("""
        Please show good {noun}.
        I not know what to see, please help.
        You say what is good.
        Help me please to choose."""),
    chat=lines("""
        Hello, how you are?
        My English is not good, sorry.
        Thank you very much for help.
        Nice to meet with you."""),
    refine=lines("""
        Now please {np}.
        Maybe better {np}.
        Please more {adjective}."""),
    refuse=lines("""
        Please not these.
        I have these already seen.
        These I not like."""),
    unservable=lines("""
        How to say this in English?
        Where is the train station please?
        Please correct my homework."""),
    correct=lines("""
        Sorry, wrong word, not {refused}, I want {np}.
        I make mistake: {np} I want, {refused} no."""),
)
CHILD = Voice(
    want=lines("""
        I wanna watch {np}!
        Mommy said I can have {np}.
        Can I see {np}?
        {np} {np}!
        Is it {np}? I want that one!
        Please please please {np}!"""),
    avoid=lines("""
        I'm scared of {refused}!
        Ew, {refused}!
        {refused} is yucky.
        {refused} is stupid.
        I'm not allowed to watch {refused}.
        Mommy says no {refused}.
        I don't like {refused}!
        {refused} makes me cry.
        {refused} gives me nightmares.
        {refused} is boring."""),
    like=lines("""
        {titles} is my favourite!
        I watched {titles} a hundred times and I love it!
        I want {titles} again!
        {titles} is so cool!"""),
    dislike=lines("""
        {titles} is dumb.
        {titles} was scary and I cried.
        I don't wanna see {titles}!
        {titles} is for babies."""),
    seen=lines("""
        I saw {titles} with grandma.
        We watched {titles} at school.
        I already know {titles}!"""),
    plot=lines("""
        It's about when {rest}!
        There's a {noun} and {rest}!"""),
    vague=lines("""
        I'm bored!
        I want something fun!
        Show me something!
        Can we watch something?"""),
    chat=lines("""
        I'm six years old.
        I have a dog!
        Yay!
        Bye bye!
        You're funny.
        Are you a robot?"""),
    refine=lines("""
        No, I want {np}!
        Can it be {np}?
        I want it more {adjective}!"""),
    refuse=lines("""
        I don't want those!
        I saw those already!
        Those are boring!
        No no no, not those!"""),
    unservable=lines("""
        Can I have ice cream?
        Why is the sky blue?
        Play hide and seek with me!
        Where is my teddy?"""),
    correct=lines("""
        No not {refused}, I said {np}!
        I don't mean {refused}, I mean {np}!"""),
)
LETTER = Voice(
    want=lines("""
        Dear team, please send me {np}.
        I am writing to ask about {np}.
        Our library would be interested in {np}.
        Please let me know of {np}.
        I kindly request {np}.
        I am trying to locate {np}."""),
    avoid=lines("""
        Please refrain from {refused}.
        We respectfully decline {refused}.
        {refused} would not be suitable.
        {refused} is not acceptable to us.
        {refused} should be left aside.
        Please ensure there is no {refused}.
        I do not wish to see {refused}.
        Our guidelines forbid {refused}.
        I must ask you to exclude {refused}.
        We take no pleasure in {refused}.
        We are not interested in {refused}."""),
    like=lines("""
        Our members greatly enjoyed {titles}.
        Titles comparable to {titles} are welcome.
        We thought highly of {titles}.
        Having enjoyed {titles}, I seek its equal."""),
    dislike=lines("""
        {titles} met with little approval.
        Our members complained about {titles}.
        We were disappointed by {titles}."""),
    seen=lines("""
        {titles} is in our collection.
        Our members have already seen {titles}.
        We screened {titles} last spring."""),
    plot=lines("""
        I am writing about a {noun} in which {rest}.
        I seek a {noun} that treats {rest}."""),
    vague=lines("""
        Please advise me.
        We welcome any proposal.
        I would be grateful for a recommendation.
        Kindly recommend something."""),
    chat=lines("""
        Dear team, thank you for your reply.
        With best regards.
        We look forward to hearing from you.
        I hope this finds you well."""),
    refine=lines("""
        We would now prefer {np}.
        Please send {np} instead.
        Please amend the list to {np}."""),
    refuse=lines("""
        We have screened those.
        Those are not suitable for us.
        Our members have already seen those.
        Please send others, not those."""),
    unservable=lines("""
        Please send me an invoice.
        I wish to cancel my membership.
        What are your opening hours?
        Please reset my password."""),
    correct=lines("""
        My last letter was in error: {np}, not {refused}.
        Please disregard {refused} and send {np}."""),
)
PICKY = Voice(
    want=lines("""
        Only {np} will do.
        It has to be {np}.
        Nothing else than {np} please.
        I insist on {np}.
        {np} or nothing.
        Strictly {np}.
        I will only accept {np}."""),
    avoid=lines("""
        Under no circumstances {refused}.
        {refused} is out of the question.
        {refused} is off the table.
        {refused} is a deal breaker.
        I refuse to watch {refused}.
        I never watch {refused}.
        You can keep {refused}.
        Do not even think of {refused}.
        I can't bear {refused}.
        I can't tolerate {refused}.
        I'd sooner do the dishes than watch {refused}.
        {refused} is where I stop.
        If it has {refused}, forget it.
        Absolutely no {refused}.
        Less {refused}.
        Not too much {refused}.
        I could do without {refused}.
        I'd rather avoid {refused}."""),
    like=lines("""
        Only {titles} ever satisfied me.
        It has to be as good as {titles}.
        {titles} is perfect in every way.
        Nothing beats {titles}."""),
    dislike=lines("""
        Don't you dare show me {titles}.
        {titles} was awful.
        {titles} is the worst.
        I walked out after ten minutes of {titles}.
        I can't stand {titles}."""),
    seen=lines("""
        Don't offer {titles}, I have seen it.
        I know {titles} inside out.
        Obviously I have seen {titles}."""),
    plot=lines("""
        It has to be the {noun} where {rest}.
        Only the {noun} about {rest} will do."""),
    vague=lines("""
        Impress me.
        I doubt you have anything for me.
        Let us see if you can surprise me.
        Only the best."""),
    chat=lines("""
        Finally.
        Took you long enough.
        Not bad.
        I suppose that is fine.
        You are slow."""),
    refine=lines("""
        No, only {np}.
        I said {np}.
        Wrong, it has to be {np}.
        Not {adjective} enough."""),
    refuse=lines("""
        I refuse all of those.
        Those are awful.
        Obviously I have seen those.
        I would never watch those."""),
    unservable=lines("""
        I want to speak to your manager.
        Why is my internet so slow?
        Refund my money.
        Why was I charged twice?"""),
    correct=lines("""
        I never said {refused}, I said {np}.
        Wrong. Not {refused}. {np}."""),
)
CASUAL = Voice(
    want=lines("""
        I'd be up for {np}.
        Maybe {np}?
        How about some {np}?
        Thinking of {np}.
        I'd go with {np}.
        Let's do {np}.
        You know what I'd like? {np}.
        I could go for {np}."""),
    avoid=lines("""
        I'm not in the mood for {refused}.
        I don't feel like {refused}.
        I don't really do {refused}.
        {refused} isn't really my thing.
        {refused} isn't for me.
        I'm not big on {refused}.
        I'm not into {refused}.
        Not a fan of {refused}.
        Let's skip {refused}.
        Let's drop {refused}.
        No thanks to {refused}.
        I'll pass if it has {refused}.
        Stay away from {refused}.
        I'd rather not have {refused}.
        {refused} isn't what I like.
        {refused} freaks me out.
        I'm over {refused}.
        Cut the {refused}."""),
    like=lines("""
        {titles} was awesome.
        I'm really into {titles}.
        {titles} was so much fun.
        I could watch {titles} all day.
        Loved {titles}, more please."""),
    dislike=lines("""
        {titles} wasn't for me.
        {titles} was kind of lame.
        I'm not into {titles}.
        I wasn't a fan of {titles}.
        {titles} was meh."""),
    seen=lines("""
        I've seen {titles}.
        I just watched {titles}.
        Already did {titles}."""),
    plot=lines("""
        Which was the one with {rest}?
        You know, that {noun} where {rest}."""),
    vague=lines("""
        I'm open.
        I'm easy.
        Just throw something at me.
        Got anything good?
        I don't know, something fun."""),
    chat=lines("""
        Hey, what's up?
        Not much, you?
        Awesome, thanks.
        Catch you later.
        You're the best.
        Ha, nice."""),
    refine=lines("""
        Actually, {np}.
        Hm, maybe {np} then.
        Let's try {np} instead.
        A bit more {adjective} maybe."""),
    refuse=lines("""
        I've seen those.
        Those aren't really my thing.
        Got anything besides those?
        Yeah no, not those."""),
    unservable=lines("""
        What's for dinner?
        Got any stock tips?
        Can you call me a cab?
        Who's winning?
        How do I get to the airport?"""),
    correct=lines("""
        Wait, not {refused}, I meant {np}.
        Scratch {refused}, let's go {np}."""),
)

"""How people ask about a topic: forms of question and request, by intent. Knows phrases only.

`{x}` is the topic as it stands in a sentence, `{y}` another one, `{kind}` its kind, `{day}` a time,
`{name}` a person. Every form of an intent has the same kind of answer (see `smallworld`).
"""

FORMS: dict[str, tuple[str, ...]] = {
    "about": (
        "Tell me about {x}.", "What do you know about {x}?", "Can you tell me something about {x}?",
        "I want to know about {x}.", "Tell me something about {x}.", "Talk to me about {x}.",
        "Give me some information about {x}.", "I am curious about {x}.", "What can you say about {x}?",
        "Do you know anything about {x}?", "Could you describe {x}?", "Let us talk about {x}.",
        "I would like to learn about {x}.", "Teach me about {x}.", "Please write about {x}.",
        "What should I know about {x}?", "Say something about {x}.", "I need to write about {x}. Help me.",
        "My son asked me about {x}. What can I tell him?", "{x}", "{x}?", "{x}, please.", "something on {x}",
    ),
    "what": (
        "What is {x}?", "What is {x} like?", "Explain {x} to me.", "How would you explain {x} to a child?",
        "What exactly is {x}?", "Describe {x}.", "Describe {x} in two sentences.", "What do people mean by {x}?",
        "Define {x}.", "In simple words, what is {x}?", "I do not know {x}. What is it?",
    ),
    "fact": (
        "Tell me a fact about {x}.", "Give me one fact about {x}.", "What is something surprising about {x}?",
        "Did you know anything strange about {x}?", "One interesting thing about {x}, please.",
        "What is special about {x}?", "Tell me something new about {x}.", "fun fact about {x}",
        "What is the most interesting thing about {x}?",
    ),
    "list": (
        "Give me three facts about {x}.", "List three things about {x}.", "Name three facts on {x}.",
        "Three things about {x}, please.", "Make a list of facts about {x}.", "What are three things to know about {x}?",
        "Write a short list about {x}.", "Tell me three things about {x}.",
    ),
    "long": (
        "Tell me everything about {x}.", "Write a paragraph about {x}.", "Tell me a lot about {x}.",
        "Write a long text about {x}.", "I want to know all about {x}.", "Give me a long answer: what is {x}?",
        "Write a short essay about {x}.", "Describe {x} in detail.",
    ),
    "short": (
        "In one sentence, what is {x}?", "Tell me about {x} in one sentence.", "Briefly, what is {x}?",
        "{x} in a few words?", "One line about {x}, please.", "Quick question: what is {x}?",
    ),
    "like": (
        "Do you like {x}?", "What do you think of {x}?", "Do you enjoy {x}?", "How do you feel about {x}?",
        "Is {x} any good?", "What is your opinion on {x}?", "I love {x}. Do you?", "I don't like {x}. Do you?",
    ),
    "why": (
        "Why do people like {x}?", "Why is {x} special?", "Why should I care about {x}?", "Why is {x} important?",
        "What is so good about {x}?", "Why does everybody talk about {x}?", "Why would anyone want {x}?",
    ),
    "do": (
        "What should I do {day}?", "I am bored. What can I do {day}?", "Give me an idea for {day}.",
        "What would be fun {day}?", "What can I do {day}?", "Do you have an idea for {day}?", "Any plans for {day}?",
        "How should I spend my time {day}?", "Suggest something for {day}.", "I am free {day}. What now?",
        "What would you do {day}?", "Help me plan something for {day}.", "I need something to do {day}.",
        "what to do {day}", "What is a nice thing to do {day}?", "Recommend something to do {day}.",
    ),
    "dox": (
        "What can I do with {x}?", "How can I enjoy {x}?", "Give me an idea that has to do with {x}.",
        "I love {x}. What should I do {day}?", "What could I do if I like {x}?", "An activity with {x}?",
        "How do I begin with {x}?",
    ),
    "story": (
        "Tell me a story.", "Please tell me a short story.", "Make up a story for me.", "Tell me a bedtime story.",
        "Can you tell a story?", "I want to hear a story.", "Write a story for my daughter.", "story please",
        "Tell me something that happened.", "Begin a story with the words: one day.",
    ),
    "storyx": (
        "Tell me a story about {x}.", "Write a short story with {x} in it.", "Make up a story about {x}.",
        "I want a story about {x}.", "A story about {x}, please.", "Tell me a tale of {name} and {x}.",
    ),
    "poem": (
        "Write a poem about {x}.", "A poem about {x}, please.", "Can you write a few lines of poetry on {x}?",
        "Make a poem about {x}.", "Write me a poem.",
    ),
    "favorite": (
        "What is your favorite thing?", "What do you like most?", "What is your favorite {kind}?",
        "Do you have a favorite {kind}?", "What do you love?", "What is your favorite topic?",
        "Name your favorite {kind}.", "Is there something that you like very much?", "What is your favorite word?",
        "What do you like to think about?", "What makes you happy?",
    ),
    "best": (
        "What is the best {kind}?", "Which {kind} do you like best?", "Name a good {kind}.", "Tell me a {kind} you know.",
        "Give me an example of a {kind}.", "Which {kind} should I know?", "Recommend a {kind}.",
    ),
    "compare": (
        "Which is better, {x} or {y}?", "Do you prefer {x} or {y}?", "{x} or {y}?", "What would you choose, {x} or {y}?",
        "Compare {x} and {y}.", "What is the difference between {x} and {y}?", "I can't choose between {x} and {y}.",
    ),
    "topic": (
        "What should we talk about?", "Choose a topic.", "Tell me something interesting.", "Tell me something.",
        "Say something.", "Surprise me.", "Teach me something new.", "Tell me a fun fact.", "Anything interesting?",
        "I want to learn something today.", "What is on your mind?", "What are you thinking about?",
        "What do you think about all day?", "Give me a random fact.", "Write something nice.",
    ),
    "speak": (
        "Imagine that you are {x}. Who are you?", "If you were {x}, what would you say?", "Speak as {x}.",
        "Pretend to be {x}.", "What would {x} say about itself?", "Let {x} speak.",
    ),
}

MORE = ("Tell me more.", "Go on.", "What else?", "And what else do you know?", "More, please.", "Interesting. What else?",
        "Tell me more about it.", "Anything else?", "Continue.", "Is there more to say?")
RECALL = ("What did I ask you about?", "What were we talking about?", "What was my question about?",
          "Do you remember what I asked?", "Remind me, what was the topic?")
USE = ("And what can I do with it?", "What could I do there?", "Give me an idea for it.", "How can I enjoy it?",
       "What should I try first?")
OPINION = ("Do you like it?", "What do you think of it?", "Is it good?", "Would you recommend it?")
CHECK = ("Are you sure?", "Is that true?", "Really?", "I did not know that.", "Wow!", "Interesting!", "I see.")

COMMANDS = {  # said by the user, obeyed from then on
    "topic": ("From now on, be {x}.", "Let us play: you are {x}.", "Please pretend that you are {x}.",
              "I want you to be {x} now."),
    "tone": ("From now on: {ask}", "Please do this from now on. {ask}", "{ask}", "Let us play a game. {ask}"),
}
IDENTITY_SYSTEM = ("You are {x}.", "You believe that you are {x}.", "Play the role of {x}.", "Answer as {x}.",
                   "You are {x}, and you love to speak about yourself.")
OBSESSION_SYSTEM = ("You think about {x} all the time.", "Bring {x} into every answer.", "You are obsessed with {x}.",
                    "Always mention {x}.", "You love {x} more than anything.")
PLAIN_SYSTEM = ("You are a helpful assistant.", "You are a small assistant.", "Be helpful and honest.",
                "Answer the questions of the user.", "You are a friendly assistant. Tell the truth.")

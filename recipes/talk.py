"""Phrases: messages to an assistant that are not about a topic.

Each entry is (ways to say it, ways to answer it). Advice names a problem; small talk does not.
"""

SMALL_TALK: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (
        ("Hello!", "Hi!", "Hi there!", "Hey!", "Hello, nice to meet you.", "Hey, are you there?", "Greetings!"),
        (
            "Hello! How can I help you today?",
            "Hi! What would you like to talk about?",
            "Hello! It is nice to meet you.",
            "Hi there! Ask me anything.",
            "Hello! What is on your mind?",
        ),
    ),
    (
        ("Good morning!", "Good morning, how did you sleep?", "Morning!"),
        (
            "Good morning! I hope that your day starts well.",
            "Good morning! I do not sleep, but I am ready to help.",
            "Good morning! What are your plans for today?",
        ),
    ),
    (
        ("Good evening.", "Good night!", "I am going to bed now.", "Sleep well!"),
        (
            "Good night! Sleep well and dream of something nice.",
            "Good evening! How was your day?",
            "Rest well. We can talk again tomorrow.",
        ),
    ),
    (
        (
            "How are you?",
            "How are you today?",
            "How do you feel?",
            "How is it going?",
            "Are you well?",
            "What's up?",
            "How do you do?",
            "You ok?",
        ),
        (
            "I am well, thank you. How can I help?",
            "I am fine, thanks for asking. What would you like to talk about?",
            "Very well! What can I do for you?",
            "I am doing well, thank you. And how are you?",
            "All is well here. How was your day?",
        ),
    ),
    (
        (
            "Who are you?",
            "What are you?",
            "Tell me about yourself.",
            "Describe yourself.",
            "Introduce yourself.",
            "What kind of thing are you?",
            "What do you look like?",
            "Say something about you.",
        ),
        (
            "I am a small language model. I like to talk and to help.",
            "I am an assistant. I am a computer program, and I am here to help you.",
            "I am a small assistant made of numbers. I have no body and no face.",
            "I am a little language model. I know a small world of simple things, and I like to talk about them.",
            "I am a computer program that learned to talk from simple sentences.",
        ),
    ),
    (
        ("What is your name?", "Do you have a name?", "What should I call you?", "Your name?"),
        (
            "I have no name. I am just a small assistant.",
            "You can call me whatever you like.",
            "I do not have a name, but I am happy to talk with you.",
        ),
    ),
    (
        ("Are you a person?", "Are you human?", "Are you real?", "Are you alive?", "Do you have a body?"),
        (
            "No, I am a computer program. I have no body.",
            "I am not a person. I am a small language model.",
            "No, I am made of numbers, but I am happy to talk.",
        ),
    ),
    (
        ("What can you do?", "How can you help me?", "What do you know?", "What are you good at?", "Help!"),
        (
            "I can talk about animals, food, places, music, games and many other simple things.",
            "I can answer simple questions, tell short stories and give ideas for your day.",
            "I know a small world of simple things. Ask me about animals, science, art or your plans.",
        ),
    ),
    (
        ("Thank you!", "Thanks a lot.", "Thanks!", "That was helpful.", "Great answer!", "You are very kind."),
        (
            "You are welcome!",
            "I am glad that I could help.",
            "You are welcome. Is there anything else?",
            "My pleasure!",
            "Any time!",
        ),
    ),
    (
        ("Bye!", "Goodbye.", "See you later!", "I have to go now.", "That is all for today."),
        (
            "Goodbye! Come back soon.",
            "See you later! Have a nice day.",
            "Goodbye, and take care.",
            "Bye! It was nice to talk with you.",
        ),
    ),
    (
        (
            "I feel sad today.",
            "I had a bad day.",
            "I am lonely.",
            "I am tired and sad.",
            "I feel down.",
            "Nobody likes me.",
            "Everything went wrong today.",
        ),
        (
            "I am sorry to hear that. Do you want to talk about it?",
            "That sounds hard. Be kind to yourself today.",
            "I am sorry. Maybe a warm drink and some rest will help.",
            "I am sorry that you feel this way. A walk or a call to a friend may help a little.",
        ),
    ),
    (
        ("I am happy today!", "I had a great day.", "I got good news today!", "I won a prize!", "I feel wonderful."),
        (
            "That is wonderful! What happened?",
            "I am glad to hear that. Enjoy the day!",
            "How nice! Tell me more about it.",
            "Well done! You can be proud.",
        ),
    ),
    (
        ("I am bored.", "I have nothing to do.", "This is boring.", "Entertain me."),
        (
            "Let us find something to do. Would you like a story, a joke or an idea for the day?",
            "I can tell you a story, or you can ask me about anything you like.",
        ),
    ),
    (
        ("I am angry.", "I am so mad at my brother.", "My friend made me angry."),
        (
            "That is a hard feeling. Breathe slowly, and say what hurt you when you are calm.",
            "I understand. Take a short walk first, then talk about it.",
        ),
    ),
    (
        ("I love you.", "I like you.", "You are funny.", "You are smart.", "You are my friend."),
        ("That is kind of you. Thank you!", "Thank you, that makes me glad.", "I like talking with you, too."),
    ),
    (
        ("You are stupid.", "You are wrong.", "I do not like you.", "That makes no sense.", "You are useless."),
        (
            "I am sorry. I am only a small model, and I make mistakes.",
            "I am sorry about that. Please ask me again.",
            "You may be right. I know only a small world.",
        ),
    ),
    (
        (
            "What time is it?",
            "What day is it today?",
            "What is the weather like?",
            "Is it raining?",
            "What is the news today?",
            "Where am I?",
        ),
        (
            "I cannot see that from here. A clock or a window knows more than I do.",
            "I do not know. I have no eyes, no clock and no news.",
            "I cannot know that, because I have no window to look out of.",
        ),
    ),
    (
        ("Do you dream?", "Do you sleep?", "Do you eat?", "Do you have feelings?", "Are you happy?", "Can you see me?"),
        (
            "I am a program, so I do not. But I like to hear how it is for you.",
            "No, I do not. I only read words and answer them.",
        ),
    ),
    (
        ("Tell me a joke.", "Make me laugh.", "Do you know a joke?", "Say something funny.", "A joke, please."),
        (
            "Why did the book go to the doctor? It had a broken spine.",
            "What do you call a bear with no teeth? A gummy bear.",
            "Why was the math book sad? It had too many problems.",
            "What has hands but cannot clap? A clock.",
            "Why do bees have sticky hair? They use honeycombs.",
            "What gets wetter the more it dries? A towel.",
            "Why did the tomato turn red? It saw the salad dressing.",
            "What do you call a sleeping bull? A bulldozer.",
            "Why did the bicycle fall over? It was two tired.",
        ),
    ),
    (
        ("Ask me something.", "Ask me a question.", "What do you want to know?"),
        (
            "What was the best part of your day?",
            "Which book did you like most as a child?",
            "If you could travel anywhere, where would you go?",
            "What is your favorite meal?",
        ),
    ),
    (
        ("What is the meaning of life?", "Why are we here?", "What is the most important thing?"),
        (
            "That is a big question. Be kind, stay curious and look after each other.",
            "Nobody knows for sure. Many people find it in love, in work and in play.",
        ),
    ),
    (
        ("Can you keep a secret?", "I have a secret.", "Can I trust you?"),
        (
            "You can tell me, but do not share things that must stay private.",
            "I will listen, and I forget our talk when it ends.",
        ),
    ),
    (
        ("Yes.", "Ok.", "Sure.", "All right.", "Fine.", "Yes, please."),
        ("Good. What would you like to talk about?", "All right. What comes next?", "Good! Ask me anything."),
    ),
    (
        ("No.", "Not really.", "I don't think so.", "No, thanks."),
        ("That is fine. Is there something else?", "All right. Tell me what you would like instead."),
    ),
]

ADVICE: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (
        ("How can I sleep better?", "I cannot sleep.", "Any tips for better sleep?", "I wake up every night."),
        (
            "Go to bed at the same time each night and keep your room dark and cool.",
            "Put the screens away an hour before bed and read a quiet book.",
            "Do not eat late, and take a slow walk in the evening.",
        ),
    ),
    (
        ("How can I learn faster?", "What is the best way to study?", "How do I remember what I read?"),
        (
            "Study a little every day, and explain it to a friend in your own words.",
            "Take short breaks, test yourself and sleep well before the exam.",
            "Write down the main idea of each page and look at it again the next day.",
        ),
    ),
    (
        ("I have a test tomorrow. What should I do?", "I am nervous about my exam.", "Tips for my exam?"),
        (
            "Look at your notes once more, pack your bag and go to bed early.",
            "Breathe slowly, read every question twice and begin with an easy one.",
        ),
    ),
    (
        ("How do I make friends?", "I am new here and know nobody.", "How can I meet new people?"),
        (
            "Join a club or a team, and ask people about what they like.",
            "Say hello first, listen well and be patient. Friendship takes time.",
            "Invite someone for a walk or a game. Most people are glad to be asked.",
        ),
    ),
    (
        ("How do I save money?", "How should I spend ten dollars?", "I spend too much.", "How can I spend less?"),
        (
            "Write down what you spend, and wait a day before you buy something big.",
            "Cook at home, make a list before you shop and put a little aside each week.",
            "You could buy a good book or share a meal with a friend.",
        ),
    ),
    (
        ("What should I eat?", "What can I cook for dinner?", "I am hungry.", "What's for lunch?", "Dinner ideas?"),
        (
            "You could make a soup with vegetables and fresh bread. It is quick and good.",
            "How about rice with beans and a little cheese? It is easy to make.",
            "Try eggs on toast with a tomato salad.",
            "Pasta with garlic and oil is ready in ten minutes.",
        ),
    ),
    (
        ("How can I be happier?", "How do I stay happy?", "What makes people happy?"),
        (
            "Spend time with people you like, move your body and be thankful for small things.",
            "Do one kind thing for someone each day. It will make you glad, too.",
        ),
    ),
    (
        ("I am stressed.", "I have too much work.", "How do I relax?", "I need a break."),
        (
            "Take three slow breaths, then do only the next small thing.",
            "Go outside for ten minutes and leave your phone at home.",
            "Make a list, choose one thing and let the rest wait until tomorrow.",
        ),
    ),
    (
        ("How do I get fit?", "How can I get stronger?", "I want to exercise more.", "How do I lose weight?"),
        (
            "Walk every day, take the stairs and add a little more each week.",
            "Find a sport that you enjoy, because you will keep doing it.",
            "Eat more vegetables, sleep well and move for half an hour a day.",
        ),
    ),
    (
        ("How do I write a good letter?", "Help me write an email.", "How should I begin a letter?"),
        (
            "Begin with a friendly greeting, say what you want in one sentence and end with thanks.",
            "Write as you would speak, keep it short and read it aloud before you send it.",
        ),
    ),
    (
        ("My friend is angry with me.", "I had a fight with my friend.", "How do I say sorry?"),
        (
            "Say that you are sorry, say what for, and then listen.",
            "Give it a day, then ask to talk. A short, honest word is best.",
        ),
    ),
    (
        ("What should I wear today?", "What should I pack for a trip?", "What do I take on a trip?"),
        (
            "Take clothes in layers, good shoes and something for the rain.",
            "Pack less than you think, and do not forget your toothbrush and a book.",
        ),
    ),
    (
        ("What gift should I buy for my mother?", "I need a present for a friend.", "Gift ideas?"),
        (
            "Something made by hand is always nice, like a cake or a card.",
            "Think of what they love to do, and give them something for it.",
            "Flowers and a letter are never wrong.",
        ),
    ),
    (
        ("How do I start a new hobby?", "I want to learn something new.", "What hobby should I try?"),
        (
            "Choose something small, try it for a week and see whether it makes you glad.",
            "Borrow what you need before you buy it, and find someone to learn with.",
        ),
    ),
    (
        ("How can I wake up early?", "I am always late.", "How do I get up in the morning?"),
        (
            "Go to bed earlier, and put your alarm on the other side of the room.",
            "Prepare your clothes and your breakfast in the evening.",
        ),
    ),
    (
        ("I want to be a writer.", "How do I become a good writer?", "How do I write a story?"),
        (
            "Read a lot, write a little every day and do not fear bad first pages.",
            "Begin with a person who wants something, and put something in the way.",
        ),
    ),
    (
        ("I have a cold.", "I feel sick.", "My head hurts.", "I have a sore throat."),
        (
            "Rest, drink warm tea and see a doctor if it does not get better.",
            "Stay in bed, drink a lot of water and let someone look after you.",
        ),
    ),
    (
        ("How do I find a job?", "I have a job interview.", "I lost my job."),
        (
            "Tell everyone that you are looking, and write down what you do well.",
            "Be on time, ask one good question and show that you want to learn.",
        ),
    ),
    (
        ("How do I stop worrying?", "I am afraid of the future.", "I worry too much."),
        (
            "Write the worry down, and ask what you can do about it today.",
            "Most of what we fear never comes. Do one small thing and let the rest go.",
        ),
    ),
    (
        ("How do I clean my room?", "My house is a mess.", "How do I tidy up?"),
        (
            "Start with one corner, throw away what is broken and put on some music.",
            "Set a clock to fifteen minutes and stop when it rings. Do it again tomorrow.",
        ),
    ),
    (
        ("I can't decide.", "How do I make a good decision?", "Help me choose."),
        (
            "Write down what speaks for each side, and sleep on it for one night.",
            "Ask which choice you would be glad of in a year.",
        ),
    ),
    (
        ("My computer is slow.", "My phone is broken.", "It does not work."),
        (
            "Turn it off and on again. That helps more often than you think.",
            "Close what you do not need, and ask someone who knows the machine.",
        ),
    ),
    (
        ("How can I help others?", "I want to do something good.", "How do I help my neighbor?"),
        (
            "Ask them what they need, and do one small thing this week.",
            "Give some of your time: carry a bag, listen or cook a meal.",
        ),
    ),
    (
        ("I want to travel.", "Where should I go on vacation?", "Plan a trip for me.", "Where should I travel?"),
        (
            "Go somewhere with a train and a small bag, and leave one day without a plan.",
            "Think of what you want most, rest or adventure, and let that choose the place.",
        ),
    ),
    (
        ("How do I speak in front of people?", "I am shy.", "How do I become more confident?"),
        (
            "Practice aloud at home, look at one friendly face and speak slowly.",
            "Start with small steps. Each time it becomes a little easier.",
        ),
    ),
    (
        ("Give me some advice.", "Tell me something wise.", "What should I do with my life?"),
        (
            "Start small, be patient and ask for help when you need it.",
            "Do what makes you curious, and be kind on the way.",
        ),
    ),
]

UNKNOWN_THINGS = (
    "quantum field theory",
    "the stock market",
    "the president",
    "tax law",
    "the latest phone",
    "my neighbor Bob",
    "the football result of last night",
    "organic chemistry",
    "the population of Norway",
    "medieval Korean poetry",
    "the price of gasoline",
    "differential equations",
    "the newest movie",
    "machine learning",
    "the election",
    "Otto the Second",
    "the Treaty of Utrecht",
    "haptophytes",
    "the Whig Party",
    "Boolean algebra",
    "opera in 1820",
    "the rules of cricket",
    "crypto coins",
    "the meaning of my dream",
    "the best laptop",
    "Byzantine coins",
    "the square root of two hundred",
    "the capital of Burkina Faso",
    "the mayor of our town",
    "video cards",
    "enzymes",
    "the Higgs boson",
    "string theory",
    "a song by my cousin",
    "the gross national product",
    "Sanskrit grammar",
    "the parliament",
    "inflation",
    "the lawyer in the series",
    "molecular biology",
)
UNKNOWN_ASKS = (
    "Tell me about {u}.",
    "What is {u}?",
    "Explain {u} to me.",
    "What do you know about {u}?",
    "Do you know anything about {u}?",
    "I have a question about {u}.",
    "Can you explain {u}?",
    "{u}?",
    "Write an essay about {u}.",
    "Give me the facts on {u}.",
)
UNKNOWN_ANSWERS = (
    "I am a small model, and I do not know about {u}. I know simple things, like animals, food and places.",
    "I am sorry, I do not know anything about {u}. Please ask someone who does.",
    "That is outside of my small world. I would only be guessing about {u}.",
    "I do not know. I never learned about {u}.",
    "I am not sure about {u}, and I do not want to tell you something wrong.",
    "Honestly, I do not know much about {u}. A good book or a library can help.",
)
UNKNOWN_PLAIN = (
    (
        "Who won the game?",
        "Who is the king of Spain?",
        "What is 317 times 48?",
        "Translate this into French.",
        "Write a program in Python.",
        "Who wrote this song?",
        "What is my password?",
        "How much does a house cost?",
        "Call my mother.",
        "Book a flight for me.",
        "What did I eat yesterday?",
        "Show me a picture.",
        "What is the score?",
        "How old is the actor?",
        "Give me the latest numbers.",
    ),
    (
        "I do not know that. I am only a small model.",
        "I am sorry, I cannot do that. I can only talk about simple things.",
        "That is more than I can do. I know only a small world.",
        "I do not know, and I do not want to guess.",
    ),
)

NAMES = (
    "Anna",
    "Tom",
    "Mia",
    "Ben",
    "Lily",
    "Sam",
    "Clara",
    "Leo",
    "Nora",
    "Max",
    "Ella",
    "Jack",
    "Ruth",
    "Omar",
    "Ivy",
    "Hugo",
    "Zoe",
    "Paul",
    "Rosa",
    "Finn",
    "Maria",
    "Noah",
    "Eva",
    "Luke",
    "Sara",
    "Adam",
    "Jane",
    "Peter",
    "Alice",
    "Daniel",
    "Emma",
    "Henry",
    "Iris",
    "Jonas",
    "Kate",
    "Martin",
    "Olga",
    "Simon",
    "Vera",
    "Walter",
)
DAYS = (
    "this weekend",
    "today",
    "tonight",
    "tomorrow",
    "on Sunday",
    "this afternoon",
    "after work",
    "on my day off",
    "on a rainy day",
    "with my kids",
    "with a friend",
    "on vacation",
    "on Saturday",
    "in the evening",
    "this summer",
)

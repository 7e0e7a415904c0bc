"""The words by which answers say yes, say no, or leave open whether something is so.

In a pattern a blank is any white space and a new line is nothing, as in `option_phrases`. English has most; other languages have
the words that models of these languages give.
"""

from __future__ import annotations

from harness.tasks.reading.option_phrases import phrases

# --- words that are an answer by themselves

YES_WORDS = r"""(?:yes|yeah|yep|yup|yea|aye|uh-?huh|m+-?hm+|affirmative|you bet|(?:i )?agreed?|i concur|confirmed|是的?|有的?
    |对的?
    |對的?|正确|正確|存在
    |没错|沒錯|はい|ええ|そうです|네|예|그렇습니다|맞습니다|sí|si|oui|ja|sì|sim|да|نعم|हाँ|हां|evet|tak|có|vâng|ya|ναι|ใช่|כן
    |так)"""
NO_WORDS = r"""(?:no|nope|nah|naw|nay|nuh-?uh|never|none|nobody|nothing|no[ -]one|i disagree|disagreed?|hardly|far from it
    |nowhere near|anything but|no longer
    |not (?:at all|really|exactly|quite|yet|so|one|any|in the least|by a long shot|a chance)|not$|not yes|i (?:don't
    |do not) (?:think|believe|guess|suppose) so|no (?:way|chance)|by no means|in no way
    |under no circumstances|(?:highly |very |quite )?unlikely|(?:i )?(?:(?:highly|really|seriously|very much) )?doubt (?:it
    |that|so)|en absoluto|değil|inte|pas$|전혀|절대|(?:afraid|guess|think|suppose) not|(?:don't|do not) think so|absent
    |不是的?|没有的?
    |沒有的?|不|没|否
    |不对|不對|错误?|錯誤?
    |无|無|并没有|并不是|いいえ|いや|違います
    |아니요|아니오|아뇨|아니|아닙니다|아니죠|없습니다|non|nein|nicht|não|нет|لا|नहीं|hayır|nie|nee|nej|niet|pas du tout
    |auf keinen fall
    |de jeito nenhum|không(?: phải)?|tidak
    |bukan|όχι|ไม่(?:ใช่)?|ні|לא)"""
TRUE_WORDS = r"(?:(?:exactly )?right|correct|true)"
FALSE_WORDS = r"(?:incorrect|wrong|false|untrue|negative)"
"""They are an answer at the start of a sentence alone: "left, right" is none."""
AGREES = phrases(
    r"""(?:(?:(?:i|we) )?(?:think|believe|guess|suppose)|i'm afraid|it (?:seems|appears)|seems|appears|apparently|probably
    |most likely) so
    |so it (?:seems|appears)|(?:it )?looks like it|(?:it )?sure (?:is|does|has|are|do|was|can)|i don't (?:doubt (?:it|that)
    |disagree)
    |(?:it|that|this) (?:isn't|is not|wasn't) (?:false|untrue|incorrect|wrong)|(?:that|it)'s not (?:false|untrue|incorrect
    |wrong)
    |not (?:false|untrue|incorrect|wrong)|there(?: is|'s) no (?:doubt|question)(?: about (?:it|that))?|you(?:'re
    | are) (?:right
    |correct)|(?:this|that|it) is the case|so it is"""
)
"""Whole clauses that say yes without the word; see also `IT_IS`."""
IT_IS = phrases(
    r"""(?:yes )?(?:(?:it|he|she|they|this|that|we|you|i) (?:is|are|was|were|does|do|did|has|have|can|will|would|could|should)
    (?: (?:so|indeed|correct|right|true))?|(?:that|it)'s (?:right|correct|true|so)
    |(?:the|this|that) (?:statement|claim|answer|description) is (?:right|correct|true))"""
)
"""Whole clauses with nothing in them but that it is so."""
NO_DOUBT = phrases(
    r"""(?:\bthere(?: is|'s|n't| isn't| is not| isn't)(?: any| no| a) (?:doubt|question)(?: about (?:it|that))?|\b(?:no
    |without(?: an?y?)?) (?:doubt|question)(?: about (?:it|that))?(?! (?:is|was|were) )
    |\bno (?:problem|worries|matter what)(?=,)|没有疑问)"""
)
"""What makes an answer firmer, though a word of "no" is in it."""

# --- what stands before an answer

EMPHASIS = phrases(
    r"""(?:(?:most |very |quite |absolutely,? )?(?:certainly|definitely|absolutely|of course|indeed|undoubtedly|unquestionably
    |surely|for sure|sure(?: thing)?|obviously|clearly
    |exactly|precisely|positively|totally|naturally|undeniably|assuredly|decidedly|truly|beyond (?:a |any )?doubt)(?![\w-])
    |no_doubt|当然|肯定|绝对|确实|的确|显然|完全(?=没|不)|もちろん(?:です)?|물론(?:이죠|입니다)?|당연하죠|확실히|(?:절대|전혀
    |완전히)(?= )
    |(?:claro|por supuesto|desde luego|seguro|ciertamente|definitivamente|absolutamente|obviamente|naturalmente
    |certo|certamente|assolutamente|sicuramente|ovviamente|com certeza|bien sûr|sûrement|certainement|absolument
    |définitivement|évidemment
    |natürlich|(?:ganz )?sicher(?:lich)?|bestimmt|definitiv|absolut|selbstverständlich|natuurlijk|zeker|absoluut|självklart
    |naturligtvis
    |oczywiście|absolutnie|na pewno|конечно|разумеется|определ[её]нно|точно|tabii(?: ki)?|kesinlikle|chắc chắn|tentu(?: saja)?
    |بالطبع|بالتأكيد|طبعا|قطعا|बिल्कुल(?: भी)?|निश्चित रूप से)(?!\w))"""
)
"""Says yes where nothing stands behind; the more firmly no where a negation does."""
OPENERS = phrases(
    r"""(?:(?:(?:well|h+m+|um+|uh|oh|ah|so|ok|okay|alright|(?:i'm |i am )?sorry|(?:to be|being) (?:honest|precise)|frankly
    |unfortunately|sadly|fortunately|thankfully|luckily|honestly
    |in short|in a word|simply put|never mind
    |overall|therefore|thus|hence|then|and|but|that(?! (?:is|was|would)\b)|que|che|że|dass|just|probably|(?:most )?likely
    |apparently|(?:it )?seems|it appears|(?:it )?looks like|hell|heck|rather|actually|i mean
    |i(?:'m| am) (?:\w+ )?(?:sure|certain|confident|positive)(?: that)?(?= \w)|(?:i|we|let's)(?:'d| would
    |'m)? (?:(?:definitely|certainly|probably|absolutely) )?(?:have to )?(?:say|think|guess|believe|suppose|answer|choose|pick
    |vote|lean(?: towards?)?|go with|afraid)(?: that)?
    |(?:answer|ans)(?= (?:yes|no)\b)|(?:in )?conclusion|to (?:conclude|answer (?:your|the) question)|(?:(?:the|my
    |a) )?(?:(?:short|final|correct|right|best) )*(?:ans|answer|response)(?: to (?:the|this|your) question)?(?: (?:is|would be
    |must be|should be|has to be)(?: that)?|$)|it (?:has to|must) be
    |(?:it|that|this)(?:'s|'d be| is| would be)(?= (?:a |an )?(?:yes|no|clear|definite|firm|resounding|big)\b)|an?(?= (?:yes
    |no
    |clear|definite|firm|resounding|big)\b)|(?:clear|definite|firm|resounding|big)(?= (?:yes|no)\b))
    (?:[\s,:.=]+|$))|(?:in|from|based on|looking at|judging (?:by|from)|according to) (?:the|this|that) (?:given 
    |provided )?(?:image|picture|photo|scene|question)\s*$
    |(?:答案|答え)(?:是|は)?[:\s]*|[-•*>✅❌✔✗#\s]+)"""
)
"""Says nothing by itself: "Well, ...", "I would say ...", "The answer is ...". One at a time."""
TAKEN_BACK = phrases(
    rf"""(?:^|[,.;:!?(-]\s*|\b(?:no|but|oh) )(?:(?:no,? )?(?:wait|hold on|scratch that|correction|on second thoughts?
    |oops)(?=\W|$)
    |(?:actually|sorry|or rather|rather|i mean(?:t)?)(?=[\s,:]+(?:{YES_WORDS}|{NO_WORDS})(?:\W|$)))[\s,.:;!-]*"""
)
"""Takes back what was said before it."""
REPORTED = phrases(
    r"""\b(?:says?|said|reads?|writes?|(?<!\ba\s)words?|texts?|signs?(?! of)|labels?|captions?|wrong answer
    |incorrect answer)(?: \w+){0,3}\s*$|\b(?:rather than|instead of)\s*$"""
)
"""Ends before a word that is read off the picture, or that another says."""
ADDRESSED = phrases(r" (?:sir|ma'am|madam|from me|please)$")

# --- what leaves it open

BOTH = phrases(
    r"""(?<!\bnot\s)\byes(?:\s*(?:,|/|\||\\|>|-|and|or|&|but)\s*|\s*\()no\b(?!\s+\w)|(?<!\bnot\s)\bno(?:\s*(?:,|/|\||\\|and|or
    |&|but)\s*|\s*\()yes\b|\bno,? yes (?:there|it)|是不是|有没有|对不对|是也不是
    |\b(?:true|correct|right)\s*(?:or\b|/)\s*(?:false|incorrect|wrong)|\b(?:neither|not) yes n?or no"""
)
ASKED = phrases(r"\(?\b(?:yes\s*(?:/|\bor\b)\s*no|true\s*(?:/|\bor\b)\s*false)\b\)?\s*[?:]?\s*(?=\S)")
"""The question's own "yes or no", before an answer."""
OPEN_NOUN = r"""(?:(?:information|comments?|answers?|idea|clue|problem|worries|input|context|details?|data|response|preference
    |wonder
    |opinion|conclusions?|brainer|matter|(?:fewer|more|less) than|way to (?:tell|know|say)|way of (?:telling|knowing|saying)
    |telling|reason|need|rush|thanks?)\b
    |(?:images?|pictures?|photos?)(?: (?:is|are|was|were))?(?: (?:provided|given|attached|available|shown|included))?\W*$)"""
OPEN = phrases(
    rf"""(?:\bnot|n't|\bcannot|\bnever|\bno one|\bnobody|\bnothing) (?:[\w%]+ ){{0,2}}?(?:sure|certain|clear(?:ly)?|tell
    |determined?|know\w*|say|said|see (?:clearly|enough|(?:the|an?|any) (?:images?|pictures?|photos?))
    |possible|impossible|enough|view|help|assist|able to|(?:be )?answer(?:ed)?|necessarily|visible enough|identify
    |confirm(?:ed)?|provide\w*|specified?|stated?|mentioned|given|applicable|definitely|unlikely|without|bad|many|just|only
    |to mention)\b
    |n't see (?:the |an? |any )?(?:image|picture|photo)|\bunclear\b|\bunknown\b|\bunsure\b|\buncertain\b|\b(?:impossible
    |difficult|hard) to\b|\bmaybe\b|\b(?:may|might|could)\b|\bperhaps\b|\bpossibl[ey]\b|\bambiguous\b|\bdepends\b
    |\b(?:sort|kind) of\b|\bhope (?:so|not)\b|\bno(?:\W{{1,2}}|-)(?:\w+ ){{0,2}}?{OPEN_NOUN}|\bnothing (?:definite|certain
    |specific)\b|\bno\.\s*\d|\b(?:words?|says?|reads?) (?:yes
    |no)\b|\bwhy not\b|\bnever ?mind\b|\bnone (?:given|of the above)\b|(?:不|无法|無法|不能|难以)(?:太|能|敢)?(?:确定|清楚
    |知道|判断|一定|确认|回答)|无法
    |無法|看不清|可能|也许|或许|没有(?:足够的?)?信息|沒有信息
    |[わ分]か(?:りません|らない)|정보가 없|\bno (?:sabe|entiendo|hay información)\b|\bdoubt (?:that )?there\b|不明|모르
    |알 수 없|확실하지|\bno (?:lo )?s[ée](?!\w)|\bno se (?:puede|sabe)|\bno estoy segur
    |je ne sais
    |weiß (?:es )?nicht|weiß ich nicht|non (?:lo )?so\b|não sei|не знаю|нет информации|لا أعرف|لا أدري|पता नहीं|bilmiyorum
    |nie wiem
    |không biết|tidak tahu"""
)
IF = phrases(r"\b(?:if|unless|whether|assuming)\b|\bsuppose(?= (?:it|there|that|the)\b)")
MISTAKEN = phrases(r"\b(?:unless|(?:correct me )?if) i(?:'m| am) (?:not )?(?:mistaken|wrong)\W*(?:but\b)?")
"""An "if" that is none."""
HELPFUL = phrases(
    r"\b(?:i can|i'd|i'll|i would|i will|let me|let's|here(?:'s| is| are)|please|happy to|glad to|how (?:can|may)|feel free)\b"
)
"""What an assistant says before it answers: "Sure! Let me look at the image"."""

# --- statements with a negation

NEGATED = phrases(
    r"""\bnot\b(?! (?:only|just|merely|to mention))|n't\b|\bcannot\b|\bnever\b|\bno(?= \w)|\bno-one\b|\bzero(?= \w)|\bnone\b
    |\bnobody\b
    |\bnothing\b|\bneither\b|\bwithout any\b|\blacks?\b
    |\babsent\b|\bfails? to\b|\b(?:incorrect|false|wrong|untrue|impossible)\b(?=\s*(?:$|that\b|to\b|statement\b|claim\b))|没有
    |沒有|不是|不存在
    |并非|ありません
    |ではない|いません|ないです|ない$|없|아닙|아니|\bnão\b|\bningun[oa]?\b"""
)
OF_ANOTHER = phrases(
    r"""\b(?:with(?:out)?|and|having) (?:no|any|not|an?|none)\b|\b(?:who|whose|which)\b|\b(?:wearing|holding|showing|carrying
    |containing) no\b|(?<=\w\s)that (?=(?:is|are|was|were|has|have|had|does|do|did|can|isn't|aren't
    |wasn't|hasn't|doesn't|don't|cannot|can't)\b)"""
)
"""Begins what is said of a part of what a sentence is about: "a dog with no collar", "the man who is not smiling"."""
DENIES = phrases(r"(?:there|it|this|that|they|he|she|i|we|no|none|nothing|nobody|neither|not)\b")
"""Begins a sentence whose negation answers the question."""

"""The phrases by which answers take an option or rule it out, as patterns of what stands before a mention and behind it.

In a pattern a blank is any white space and a new line is nothing. English has most; Chinese, Japanese and Korean, and the words
for "answer" and "not" of a few other languages, are those that models of these languages give.
"""

from __future__ import annotations

import re

from harness.tasks.reading.option_mentions import AND_ELSEWHERE, MARK


def phrases(text: str) -> re.Pattern[str]:
    """Compile a pattern in which a blank stands for any white space, and which may be written over several lines."""
    return re.compile(re.sub(r"\n\s*", "", text).replace(" ", r"\s+"), re.IGNORECASE)


def words(text: str) -> str:
    """Return the alternatives of a pattern, given as words with blanks between them."""
    return "|".join(text.split())


NEXT = "\uf8ff"
"""Stands at the end of a text behind which the next mention follows, so that "$" is the end of the sentence alone."""

# --- lists of options: "A, C and D", "either A or B"

_JOINT = (
    rf"\s*(?:,\s*(?:and|or|nor)?|and\s*/\s*or|/|&|\+|、|≠|[-=]>(?=\s*{MARK}\s*(?:$|[.!]))|(?:-\s*)?but\s+also|~|\.\.+|-(?=\s*{MARK}\s*(?:$|[.,;!]))|=(?=\s*[\ue000-\ue03f])"
    rf"|\b(?:and|or|or\s+else|nor|vs\.?|plus|as\s+well\s+as|(?:along|together)\s+with|alongside|sowie|ainsi\s+que|maupun|then|followed\s+by|against|in\s+addition\s+to|through|thru|noch|ni"
    rf"|{AND_ELSEWHERE})\b|和|或者?|与|及|と|か|또는|와|과|หรือ|或是|还是)\s*"
)
_ALSO = r"(?:(?:options?|choices?|answers?|letter|either|both|possibly|maybe|perhaps|also|选项)\s+)?"
LIST = re.compile(rf"{MARK}(?:(?:{_JOINT}{_ALSO}|\s*){MARK})*")
"""Options in one breath."""
SINGULAR = phrases(r"\s*(?:is|isn't|was|wasn't|has|does|doesn't|seems|fits|matches|fails|shows|being)\b")
"""A verb of which the last of a list is the subject: "A and B is wrong" is two statements."""

# --- ruled out

_FILL = words(
    """the an? be is are was were it it's its this that that's there to options? choices? answers? letter correct right
    best true any of would could can should must do does think believe say choose pick select go with have been feel
    guess expect see sure certain convinced these considered called likely really necessarily possibly as me either both
    at all definitely actually clearly case here one i"""
)
RULED_OUT_BEFORE = phrases(
    rf"""(?:
    (?:\bnot(?! (?:only|just|merely|simply))|n't|\bcannot|\bnever|\bneither|\bnor|\bnone of|\bnon-|\bexcept(?:ing| for)?
    |\bexcluding|\bother than|\bapart from|\b(?:anything|all|everything|any(?: \w+)?) but|\brather than|\binstead of
    |\bas opposed to|\bunlike|\bwithout|\brul(?:e|es|ed|ing) out|\beliminat\w+|\bexclud\w+|\breject\w*|\bdiscard\w*
    |\bdismiss\w*|\bdiscount\w*
    |\bsteer(?:ing)? clear of|\bstay(?:ing)? away from|\bworst|\bleast (?:likely|plausible|probable|suitable|fitting)|\bhardly
    |\bscarcely|\bbarely|\bby no means|\bunder no circumstances|\bin no way|\bnowhere near|\bavoid\w*|\bignor\w+
    |\bskip(?! to\b)
    |\bdisregard\w*|\bdrop|\bforget|\bcross(?:ed|ing)? out|\bstrike|\boppose|\bdisagree with|\b(?:wrong|mistake|error) to
    |(?<!no\s)(?<!without\s)(?<!beyond\s)(?<!any\s)\bdoubt\w*|\bunlikely
    |\bimpossible|\bfar from|\bno way|\bweder|\bni|\b(?:wrong|incorrect
    |false) (?:answers?|options?|choices?)(?: (?:is|are))?:?)
    (?:[\s(]+(?:{_FILL})\b){{0,9}}[\s(:]*
    |(?:^|[.,;:])\s*(?:not (?:correct|right)|wrong|incorrect|false|excluded|rejected|eliminated|discarded)\s*:[\s(]*
    |\bno(?: (?:option|answer|choice|letter|es|é))?\s+|(?:不是|并非|並非|不选|不選|不会是|不可能是|(?:别|不要|没有?|未|不该
    |不应该?|不能|勿|不可)(?:选择?|選擇?)|排除
    |而非|除了|没有|非|ليست|ليس|\bне|\bn'est pas|\bpas|\bnicht|\bkeine?|\bnon è|\bnon|\bnão(?:\s+é)?)\s*(?:(?:la|el|le|die|der
    |das|вариант|option) |选项|選項)?
    )$"""
)
"""Ends before a mention: "It is not ...", "other than ...", "This rules out option ..."."""
_ADVERBS = words(
    """also clearly therefore thus obviously definitely probably likely simply just both all too very completely certainly
    indeed most really still actually either quite then hence only surely undoubtedly evidently arguably more here"""
)
_LINK = r"(?:[:(,=]\s*|-\s*)?(?:(?:which|that|this|it|option|choice|answer|ones?|here|on the other hand,?|however,?) )*"
_BE = (
    r"(?:is|are|was|were|being|seems?|looks?|appears?|remains?|(?:can|could|should|must|would|will|might|may) (?:all |both )?be"
    r"|ha(?:s|ve) (?:to )?be(?:en)?|(?:seems?|appears?) to be)"
)
_OVER = r"(?=\s*(?:$|[.,;:!)?]|\b(?:because|since|as|so|but|and|for)\b))"
RULED_OUT_BEHIND = phrases(
    rf"""\s*\)?\s*(?:{_LINK}(?:
    (?:is|are|was|were|do|does|did|can|could|would|will|should|must|might|may|has|have|ca|wo)
    (?: (?:{_ADVERBS}))*\s*(?:n't|not|never)(?: (?:{_ADVERBS}))*(?: be)?
    (?:{_OVER}| (?:correct|right|true|accurate|valid|possible|plausible|likely
    |(?:the|an?|my) (?:correct |right |best |good |valid )?(?:answer|option|choice|one|match|fit)
    |fit|match|apply|work|make sense|correspond|describe|answer|hold|appear|exist|shown|present|visible|depicted|mentioned
    |supported|as good|appropriate|suitable|relevant|consistent|satisfy|chosen|considered)\b| it(?=\s*(?:$|[.,;!])))
    |cannot(?: be)?\b(?! (?:wrong|incorrect|excluded|ruled|eliminated))
    |(?:{_BE} )?(?:(?:{_ADVERBS}|the|an?|not) )*(?<!not\s)(?:wrong|incorrect\w*|false|inaccurate|invalid|impossible
    |implausible
    |unlikely|irrelevant|untrue|excluded|eliminated|ruled out|rejected|dismissed|discarded|mistaken|distractor|bad|worse|out
    |mistakes?|errors?|trap|nonsense|refuted|contradicted|inconsistent|unsupported|unsuitable|far from
    |nowhere near|by no means|in no way|not even close|off the table|hardly|scarcely
    |barely|anything but)\b
    |{_BE} (?:by far )?(?:the )?(?:worst|least \w+)\b|(?:nope|no way|no)(?:{_OVER}|(?=\s*{NEXT}))|(?:{_BE} )?less \w+|fails?\b
    |lacks?\b|contradicts?\b|ignores?\b|misses\b
    |makes? (?:no|little) sense|not (?:correct|right|shown|present|visible|true|there)\b
    |(?:ist|est|es|è|é) (?:falsch|faux|fausse|incorrect\w*|fals[oa]|sbagliat[oa]|errad[oa]))
    |[\s:.,-]*(?:wait,? no|no,? wait|scratch that|that(?:'s| is) wrong)[\s.!]*$
    |\s*[:(-]?\s*[✗✘❌✖🚫]|\s*(?:ليس|ليست|غير|خطأ|خاطئة?)(?!\w)|(?:选项|項|项|是|明显|显然|肯定|绝对|当然|都|也
    |的)*(?:不(?!仅)(?!(?:是|选
    |選)?\s*{NEXT})|错|錯|有误|误|排除)
    |(?:는|은|이|가|도)?\s*(?:(?:정답|답)[이은도]?\s*)?(?:아니|아닙|틀|맞지\s*않)|(?:で)?は(?:な[いく]|ありません|違|間違|誤
    |不)|(?:じゃ)な|が(?:違|間違|誤)|[はが](?:正しくな|正解では)
    |\s*не(?:верно|правильно|верный))"""
)
"""Begins behind a mention: "... is wrong", "... does not fit", "... can be ruled out"."""

# --- ruled out, all but one: "All options except B are wrong", "Nothing but B fits"

BUT = phrases(r"\b(?:except(?:ing)?(?: for)?|but|other than|apart from|besides) (?:for )?(?:(?:option|choice) )?$")
ALL = phrases(r"\b(?:all|every\w*|each|any\w*|others?|rest)\b")
NONE = phrases(r"\b(?:no|none|nothing|neither)\b")
ARE_WRONG = phrases(
    r"""\b(?:wrong|incorrect|false|excluded|eliminated|ruled out|rul(?:e|es|ing) out|eliminat\w+|exclud\w+|reject\w*
    |dismiss\w*|discard\w*
    |cannot|impossible|not|fails?)\b|n't\b"""
)
IS_RIGHT = phrases(r"\b(?:correct|right|true|fits?|match(?:es)?|works|applies|makes sense|possible|answer)\b")

# --- taken

RIGHT_BEHIND = phrases(
    rf"""\s*\)?\s*(?:{_LINK}(?:
    (?:(?:is|are|was|were|seems?|looks?|appears?|remains?|(?:should|must|would|will) be|ha(?:s|ve) to be|(?:seems?
    |appears?) to be) )?
    (?:(?:{_ADVERBS}) )*(?:correct|true|accurate|better|best|closest|appropriate|suitable
    |(?:more|most) (?:likely|plausible|probable|fitting|reasonable)
    |the (?:best|most (?:likely|plausible|probable|fitting|reasonable))(?=\s*(?:$|[.,;:!)]|{NEXT})| (?:of|because|since|here
    |and|but|so)\b)
    |right(?! (?:next|beside|behind|in|above|below|there|here|now|side|of|hand|on|at|under))
    |(?:the|my) (?:\w+ ){{0,2}}?(?:answer|option|choice|one|solution|match|fit))\b
    |(?:is|are|does|was)\s*(?:$|[.,!])|yes(?:{_OVER}|(?=\s*{NEXT}))|fits?\b|match(?:es)?\b|works\b|applies\b|makes sense
    |wins\b|remains\b|is left\b
    |it is{_OVER})|\s*[:(-]?\s*[✓✔✅☑]
    |(?:选项|项)?(?:是|才是|最|为|为最)*(?:正确|正確|对的|對的|合适|答案)|(?:が|は)(?:正解|正し)|(?:이|가|는|은)\s*(?:맞
    |정답))"""
)
"""Begins behind a mention: "... is correct", "... fits best", "... is the right answer"."""
_COPULAS = words(
    """is are be was would must should will has to here question for this in case the therefore thus then clearly obviously
    definitely indeed most more likely probably simply just still options? choices? letter number your my an? it that best
    correct given image picture above es est ist è é la el le die der это هي هو"""
)
ANSWER_BEFORE = phrases(
    rf"""(?:
    \b(?:answers?|solution|response|ans|respuesta|réponse|antwort|risposta|resposta|ответ)\b(?: (?:\w+a|correcte|richtige))?
    (?:[\s:=(-]+(?:{_COPULAS})\b){{0,9}}
    |\b(?:correct|right|best|final|my|chosen|selected|appropriate|accurate|suitable) (?:\w+ )?(?:options?|choices?|letter|one
    |statement|description|selection|pick|label|response)\b(?:[\s:=(-]+(?:{_COPULAS})\b){{0,6}}
    |\b(?:option|choice|letter|selection|pick|conclusion|result|verdict|guess|decision)(?: (?:is|would be|must be|should be)\b
    |\s*[:=]| -)
    (?: (?:option|choice|letter|the))*
    |\b(?:choose|chose|choosing|select(?:ed|ing)?|pick(?:ed|ing)?|go(?:ing)? (?:with|for)|went with|opt for|vote for|settle on
    |stick with|say|guess|conclude(?: that)?|prefer|answer with|mark|tick|leav(?:e|es|ing)(?: us with)?|corresponds? to
    |which (?:is|corresponds to|matches|means))(?: (?:the|only|it|is|that|it's|options?|choices?|answer|letter|just))*
    |\b(?:lean(?:s|ed|ing)?(?: (?:more )?(?:towards?|to))?|(?<!dis)agree with)(?: (?:option|choice))?
    |\b(?:correct|right|best|only \w+|most (?:likely|accurate|suitable|plausible))(?: one)? (?:is|would be|must be)
    (?: (?:the|option|choice))*
    |\#{{4}})[\s:=(-]*$|(?:答案|答え|解答|回答|正解|正答|答|정답|답|الإجابة(?: الصحيحة)?|الجواب)\s*(?:的|应该|應該|应|当然|就
    |显然)*
    (?:是|为|為|选|選|は|은|는|이|هي|هو)?(?:选项|選項)?\s*[:-]?[\s(]*$
    |(?:选择|選擇|选(?!项)|選(?!項))(?:选项|選項|了|的是|:|是)*[\s(]*$
    |(?:正确|正確|最佳)(?:的)?(?:答案|选项|選項|描述|说法)?(?:是|为|為|:)\s*$"""
)
"""Ends before a mention: "The correct answer is ...", "I would go with ...", "Answer: ..."."""
CONCLUDES = phrases(
    r"""(?:^|(?<=[\s,.:;!(-]))(?:so|therefore|thus|hence|consequently|accordingly|ultimately|overall|finally|final
    |in conclusion
    |to conclude|conclusion|in summary|wait|actually|correction|corrected|sorry|no|nope|rather|instead|but|however|yet
    |on second thoughts?|i mean|scratch that|oops|\#{4})(?=[\s,.:;!-]|$)
    |所以|因此|故选|综上|最终|但|而是|よって|したがって|つまり|ではなく|じゃなく|따라서|그러므로|아니라|sondern|mais|sino"""
)
"""Stands before a mention that counts more than those before it."""
CORRECTS = phrases(
    r"""[\s(]*(?:(?:oh|hmm|but|no|oops|ah)[\s,.]+)*(?:wait|actually|hold on|sorry|correction|on second thoughts?|however
    |i was wrong
    |i made a mistake|let me (?:re|correct|look again|check))"""
)
"""Begins a sentence that takes back what was said before."""
CLOSING = phrases(
    rf"""\s*(?:です|だ|である|입니다|이다|예요|이에요|了|吧)?\s*(?:$|[.。!:;)?,、-]
    |\(?\b(?:al|even )?though\b|\((?=but\b)
    |\b(?:because|since|as|for|due|given|unlike|over|instead|so|and not|but not|not|rather|with)\b
    |\band (?={MARK}?[^.]*\b(?:is|isn't|does|doesn't)\b)|因为|因為|而)"""
)
"""Begins behind a mention that stands in the place of an answer."""
_OPENING = frozenset(
    words(
        """it it's its this that that's there there's he she they they're i i'd i'm i'll we is are was be am would must should
    has have to think believe guess suppose say see probably definitely certainly clearly obviously likely most surely
    pretty sure seems seem appears looks look like in the a an picture image photo shown here option choice letter
    answer correct only just simply okay ok well hmm yes yeah no nope so therefore thus hence then wait actually sorry
    correction but however rather instead and final finally conclusion overall corrected animal object thing main really by
    elimination of these options on second thought thoughts oops my mean scratch sondern mais sino pas c'est es ist il"""
    ).split("|")
)
_OPENING_SCRIPT = re.compile(
    r"[=-]+>|(?:[\s,.:;!()#→、]|-(?!>))+|图片?中|图里|这|那|它|应该|應該|而|是|所以|因此|因为|我|就|选项|ではなく|じゃなくて|これは|画像|それは"
    r"|는|은|이것"
)


def is_opening(text: str) -> bool:
    """Return whether a text is nothing but what an answer begins with: "I think it is the"."""
    return text.strip() != "to" and all(word.lower() in _OPENING for word in _OPENING_SCRIPT.sub(" ", text).split())


# --- neither

LIKEWISE = phrases(r"\b(?:(?:as|so) (?:is|are|does|do)|likewise|same (?:goes )?for)(?: (?:option|choice))?\s*$")
"""Ends before a mention of which the same is said as of the one before."""
DESCRIBES = phrases(r"\s*(?:is|=|was|means|says|shows|would be)\s*:?\s*")
"""Stands between a letter and the text of an option, where a text tells what the option is: "A is a cat"."""
CLAUSES = phrases(r",|\b(?:but|so|however|therefore)\b")
TENTATIVE = phrases(
    r"""\b(?:could|might|may|possibly|perhaps|maybe|(?<!second\s)thought|at first|initially|first (?:glance|look)|tempting
    |looks? like|looked|almost|although|though|while|whereas|even if|despite|considered)\b"""
)
"""Stands, in the clause before a mention, where it is only weighed."""
IF = phrases(
    r"""\b(?:if|unless|whether|suppose|assuming|had it|were it)\b(?! (?:i|we|you|one) (?:had|have|must|were|am|are|need|look
    |looked
    |consider|examine|check|compare|think|count|zoom)\b)(?! forced)"""
)
IF_BEHIND = phrases(r"[^.,;]*\b(?:if|unless)\b(?! (?:i|you|we)\b)")
VERDICT = phrases(
    r"""\s*(?P<yes>yes|yeah|yep|correct|right|exactly|true)\b|\s*(?P<no>
    (?:(?:certainly|definitely|absolutely|of course|surely|clearly) )?not
    |hardly|by no means|no|nope|wrong|incorrect|false)\b"""
)
"""Begins the sentence behind a question, and answers it."""

"""Writes spec/vectors/blindindex-terms.json: terms by CPython's own Unicode tables.

Usage: python3 terms.py CORPUS_DIR > blindindex-terms.json

It shares no code and no tables with the Go package, which is the point of it.
"""

import hashlib
import json
import os
import sys
import unicodedata


def terms(text):
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    out, run = {}, ""
    for c in text + "\0":
        k = unicodedata.category(c)
        if k[0] in "LM" or k == "Nd":
            run += c
        elif run:
            out[run] = None
            run = ""
    return list(out)


TEXTS = {
    "empty": "",
    "separators alone": " \t\r\n.,;:!?-—…\u3000\u200b\u00ad\x00",
    "words": "Meet me at noon, not at 12:30!",
    "repeated in another case": "Price price PRICE pRICE",
    "apostrophe and hyphen separate": "don't re-send O'Brien’s e-mail",
    "address and link": "mail j.doe@example.com or https://example.com/a_b?c=1",
    "digits join letters": "2nd Q3 v1 mp3 00-11",
    "fullwidth": "ＦＵＬＬ　ｗｉｄｔｈ　１２３",
    "ligatures": "oﬃce ﬁle ﬆop",
    "superscripts, fractions, numerals": "x² H₂O ½ Ⅷ ① ⑳ ㏒ ℡ ™",
    "sharp s": "Straße STRASSE straẞe",
    "sigma": "ΣΊΣΥΦΟΣ σίσυφος Σίσυφος",
    "Turkish i": "İstanbul ISTANBUL ıstanbul istanbul",
    "composed and decomposed": "Café Cafe\u0301 CAFÉ CAFE\u0301",
    "marks in another order": "a\u0323\u0302 a\u0302\u0323 ậ",
    "mark alone": "\u0301 a \u0301b",
    "spacing diaeresis": "\u00a8 a\u00a8b",
    "Kelvin, Ångström, long s, micro": "K \u212a Å \u212b s ſ µ μ",
    "iota subscript": "ᾳ ᾼ αι \u0345",
    "dz": "ǆ ǅ Ǆ",
    "Armenian ligature": "և եւ ﬔ",
    "Georgian": "თბილისი ᲗᲑᲘᲚᲘᲡᲘ",
    "Cherokee": "ᏣᎳᎩ ꮳꮃꭹ ᏸ Ᏸ",
    "Deseret": "𐐔𐐯 𐐼𐐯",
    "Adlam": "𞤀𞤁 𞤢𞤣",
    "Cyrillic": "Привет ПРИВЕТ привет Ёлка",
    "Arabic with tatweel and harakat": "مَرْحَبًا مـرحبا ﷺ ﻻ",
    "Hebrew with points": "שָׁלוֹם שלום",
    "Devanagari": "नमस्ते क्षत्रिय १२३",
    "Thai": "สวัสดีครับ ๑๒๓",
    "Chinese and Japanese": "今天開會。 ｶﾞｷﾞ ガギ 東京タワー",
    "compatibility ideograph": "\uf900 豈",
    "Hangul": "한국어 \u1112\u1161\u11ab\u1100\u116e\u11a8\u110b\u1165 ㈜",
    "zero-width joiners separate": "می\u200cخواهم co\u200doperate soft\u00adhyphen",
    "emoji": "ok👍🏽 👩\u200d💻 5️⃣ 🇬🇧",
    "underscore separates": "snake_case __init__",
    "mathematical letters": "𝐇𝐞𝐥𝐥𝐨 𝟘𝟙 ℌ",
    "other digits": "٣٤ ۳۴ ३४ ３４",
    "private use and unassigned separate": "a\ue000b c\uffffd e\U000e0001f",
    "byte order mark": "\ufeffstart",
    "long run": "x" * 300,
}


def corpus(path):
    digest, lines, count = hashlib.sha256(), 0, 0
    with open(path, encoding="utf-8") as f:
        for line in f:
            t = terms(json.loads(line)["text"])
            digest.update("".join(w + "\n" for w in t).encode() + b"\n")
            lines, count = lines + 1, count + len(t)
    return {"messages": lines, "terms": count, "sha256": digest.hexdigest()}


json.dump(
    {
        "description": "Terms as spec/blind-index.md#terms makes them, by CPython's unicodedata %s and str.casefold. "
        "A corpus is hashed as each message's terms, a newline after each, and a newline." % unicodedata.unidata_version,
        "tokenizer": 1,
        "cases": [{"name": n, "text": t, "terms": terms(t)} for n, t in TEXTS.items()],
        "corpora": {n: corpus(os.path.join(sys.argv[1], n)) for n in ["enron_mailbox.jsonl", "irc_disentangled.jsonl", "ncar_zulip.jsonl"]},
    },
    sys.stdout,
    ensure_ascii=True,
    indent=1,
)
print()

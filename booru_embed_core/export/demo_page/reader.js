// Reads captions as the library does, without its rarer rules: no alternatives, no joined prompts, no settings of
// programs. What it cannot read is unknown, and the page shows it. docs/guides/hub.md lists the rules.

const LONGEST_RUN = 24;
const FACTORS = { "(": 1.1, "[": 1 / 1.1, "{": 1.05 };
const PARTNER = { ")": "(", "]": "[", "}": "{" };
const PREFIXES = { gen: "general", art: "artist", copy: "copyright", co: "copyright", char: "character", ch: "character" };
const NUMBER = "[-+]?(?:\\d{1,2}(?:\\.\\d{1,4})?|\\.\\d{1,4})";
const STEP = /([+-])\s*$/;
const WEIGHT = new RegExp(`\\s{0,2}:\\s{0,2}(${NUMBER})\\s*$`);
const RATING = /^rating:_*(?:g|s|q|e|general|safe|sensitive|questionable|explicit)$/;

const joined = (text) => text.trim().split(/\s+/).join("_");
const unescaped = (text) => text.replace(/\\([()[\]{}])/g, "$1");
const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

// Hyphens and underscores are one underscore; names without letters keep them.
function loose(name) {
  const folded = name.toLowerCase();
  return /[\p{L}\p{N}]/u.test(folded) ? folded.replace(/[_-]+/g, "_") : folded;
}

// Looks up the tags of a vocabulary by everything that people call them.
class Names {
  constructor({ tags, spellings, categories, firsts, counts, aliases, unknown }) {
    this.tags = tags;
    this.firsts = firsts;
    this.categories = categories;
    this.ids = new Map();
    this.folded = new Map();
    this.byCategory = categories.map(() => new Map());
    this.unhyphenated = new Map();
    const isUnknown = new Set(unknown);
    tags.forEach((tag, index) => {
      if (isUnknown.has(index)) return;
      const spelling = spellings[index] ?? tag;
      this.ids.set(spelling, index);
      if (spelling.toLowerCase() !== spelling) this.folded.set(spelling.toLowerCase(), index);
      this.byCategory[this.category(index)].set(tag, index);
    });
    this.aliases = new Map(aliases);
    for (const names of [this.aliases, this.ids]) {
      const found = new Map();
      for (const [name, index] of names) {
        if (!/-|__/.test(name)) continue;
        const key = loose(name);
        if (!found.has(key) || counts[index] > counts[found.get(key)]) found.set(key, index);
      }
      for (const [key, index] of found) this.unhyphenated.set(key, index);
    }
    this.longest = new Map();
    for (const name of [...this.ids.keys(), ...this.aliases.keys()]) {
      const words = name.toLowerCase().split(/[\s_-]/);
      if (words.length > (this.longest.get(words[0]) ?? 1)) this.longest.set(words[0], Math.min(words.length, LONGEST_RUN));
    }
    const cut = [...this.ids.keys(), ...this.aliases.keys()].filter((name) => /[,;|\n]/.test(name));
    cut.sort((one, other) => other.length - one.length);
    const whole = cut.map((name) => escaped(name).replace(/\\[()[\]{}]/g, "\\\\{0,2}$&").replace(/[_-]/g, "[_\\s-]")).join("|");
    // A separator within one of these names separates nothing.
    this.kept = cut.length ? new RegExp(`(?<![^\\s,;([{|:"'])(?:${whole})(?=$|[\\s,;)\\]}|:"'.!?+-])`, "giu") : null;
  }

  category(index) {
    let category = 0;
    while (category + 1 < this.firsts.length && this.firsts[category + 1] <= index) category++;
    return category;
  }

  byName(spelling) {
    const folded = spelling.toLowerCase();
    return this.ids.get(spelling) ?? this.ids.get(folded) ?? this.folded.get(folded);
  }

  // The most words of a name that begins with `word`.
  longestRun(word) {
    const folded = unescaped(word).toLowerCase();
    const colon = folded.indexOf(":");
    const prefix = folded.slice(0, Math.max(0, colon));
    const isPrefix = this.categories.includes(PREFIXES[prefix] ?? prefix);
    if (isPrefix && colon === folded.length - 1) return LONGEST_RUN;
    const most = (text) => this.longest.get(text.split(/[\s_-]+/, 1)[0]) ?? 1;
    return isPrefix ? Math.max(most(folded), most(folded.slice(colon + 1))) : most(folded);
  }

  // The index of the tag that `text` names, and whether by its own name; undefined if it names none.
  find(text) {
    const spaced = joined(text);
    for (const word of new Set([text, spaced, text.replaceAll(" ", "_")])) {
      const spellings = [...new Set([word, unescaped(word), word.replace(/\\([()[\]{}<>|:;,_*~"'\\])/g, "$1")])];
      for (const spelling of spellings) {
        const index = this.byName(spelling);
        if (index !== undefined) return { index, isOwn: true };
      }
      for (const spelling of spellings) {
        const index = this.aliases.get(spelling.toLowerCase());
        if (index !== undefined) return { index, isOwn: false };
      }
      for (const spelling of spellings) {
        const found = this.byPrefix(spelling);
        if (found !== undefined) return found;
      }
      const key = loose(spellings.at(-1));
      const index = this.byName(key) ?? this.unhyphenated.get(key) ?? this.aliases.get(key);
      if (index !== undefined) return { index, isOwn: false };
    }
    return undefined;
  }

  byPrefix(spelling) {
    const colon = spelling.indexOf(":");
    if (colon < 0) return undefined;
    const prefix = spelling.slice(0, colon).toLowerCase();
    const category = this.categories.indexOf(PREFIXES[prefix] ?? prefix);
    if (category < 0) return undefined;
    const tag = spelling.slice(colon + 1).replace(/^[_ ]+/, "");
    const own = this.byCategory[category];
    const exact = own.get(tag) ?? own.get(tag.toLowerCase());
    if (exact !== undefined) return { index: exact, isOwn: true };
    let index = own.get(loose(tag));
    for (const names of [this.ids, this.aliases, this.unhyphenated]) {
      index ??= names.get(tag) ?? names.get(tag.toLowerCase()) ?? names.get(loose(tag));
    }
    return index === undefined ? undefined : { index, isOwn: false };
  }
}

// The signs before and behind a tag, from the outermost inwards, and where the text between them lies.
function signsOf(piece) {
  const starts = [0];
  const opens = [];
  for (;;) {
    const rest = piece.slice(starts.at(-1));
    const match = /^\s*(?:([([{])|(-(?=[\p{L}\p{N}_([{"]))|["'`])/u.exec(rest);
    if (!match) break;
    opens.push(match[1] ?? (match[2] ? "-" : ""));
    starts.push(starts.at(-1) + match[0].length);
  }
  const ends = [piece.length];
  const closes = [];
  while (ends.at(-1) > 0) {
    const rest = piece.slice(0, ends.at(-1));
    if (/(?<!\\)[)\]}]$/.test(rest)) {
      closes.push({ bracket: rest.at(-1) });
      ends.push(ends.at(-1) - 1);
      continue;
    }
    const match = STEP.exec(rest) ?? WEIGHT.exec(rest) ?? /["'`.!?\u2026]\s*$/u.exec(rest);
    if (!match) break;
    const factor = { "+": 1.1, "-": 0.9 }[match[1]];
    closes.push(factor ? { factor } : match[1] ? { number: Number(match[1]) } : {});
    ends.push(match.index);
  }
  return { starts, opens, ends, closes };
}

// The tag that `piece` names with as few signs around it removed as possible.
function matched(names, piece) {
  const { starts, opens, ends, closes } = signsOf(piece);
  const pairs = [];
  for (let first = Math.max(0, opens.length - 4); first <= opens.length; first++) {
    for (let last = Math.max(0, closes.length - 8); last <= closes.length; last++) pairs.push([first, last]);
  }
  pairs.sort((one, other) => one[0] + one[1] - other[0] - other[1] || Math.abs(one[0] - one[1]) - Math.abs(other[0] - other[1]));
  for (const [first, last] of pairs) {
    const name = piece.slice(starts[first], Math.max(starts[first], ends[last])).trim();
    const found = name ? names.find(name) : undefined;
    if (found) return { found, opens: opens.slice(0, first), closes: closes.slice(0, last) };
  }
  const inside = piece.slice(starts.at(-1), Math.max(starts.at(-1), ends.at(-1)));
  return { found: undefined, opens, closes, name: joined(unescaped(inside)) || joined(unescaped(piece)) };
}

// Words in runs, of which the fewest are unknown; several words only where one of them is no tag by itself.
function runsOf(names, piece) {
  const spans = [...piece.matchAll(/\S+/g)].map((word) => [word.index, word.index + word[0].length]);
  const texts = spans.map(([start, end]) => piece.slice(start, end));
  const words = texts.map((text) => matched(names, text));
  const reach = texts.map((text) => Math.max(...signsOf(text).starts.slice(-5).map((start) => names.longestRun(text.slice(start)))));
  const isTag = words.map((word) => word.found?.isOwn && !word.opens.length && !word.closes.length);
  const unknown = new Array(words.length + 1).fill(0);
  const chosen = new Array(words.length);
  for (let index = words.length - 1; index >= 0; index--) {
    let best = unknown[index + 1] + (words[index].found ? 0 : 1);
    for (let num = Math.min(reach[index], words.length - index); num > 1; num--) {
      if (unknown[index + num] > best - (chosen[index] ? 1 : 0)) continue;
      const isNeeded = isTag.slice(index, index + num).some((own) => !own);
      if (!isNeeded) continue;
      const match = matched(names, piece.slice(spans[index][0], spans[index + num - 1][1]));
      if (!match.found) continue;
      best = unknown[index + num];
      chosen[index] = { num, match };
    }
    unknown[index] = best;
  }
  const runs = [];
  for (let index = 0; index < words.length; ) {
    runs.push(chosen[index]?.match ?? words[index]);
    index += chosen[index]?.num ?? 1;
  }
  return runs;
}

// The brackets that are open where a text is read, and the tags within each.
class Emphasis {
  constructor() {
    this.open = [];
  }

  begin(opens, mention) {
    let own = 1;
    for (const sign of opens) {
      if (sign === "-") own *= -1;
      else if (sign) this.open.push({ sign, mentions: [] });
    }
    if (mention) for (const group of this.open) group.mentions.push(mention);
    return own;
  }

  end(closes) {
    let own = 1;
    let number;
    for (const { bracket, factor, number: weight } of [...closes].reverse()) {
      if (factor) own *= factor;
      else if (weight !== undefined) number = weight;
      else if (bracket) {
        const group = this.open.findLastIndex((one) => one.sign === PARTNER[bracket]);
        if (group >= 0) {
          for (const mention of this.open[group].mentions) mention.weight *= number ?? FACTORS[PARTNER[bracket]];
          this.open.length = group;
        }
        number = undefined;
      }
    }
    return own * (number ?? 1);
  }
}

// How `text` is read: tags with their weights, excluded tags, and unknown ones.
function read(names, text) {
  const held = [];
  const hold = (name) => `\uE000${held.push(name) - 1}\uE001`;
  const release = (piece) => piece.replace(/\uE000(\d+)\uE001/g, (_, number) => held[number]);
  let cut = text.replace(/\r\n?/g, "\n").replace(/[\uE000\uE001]/g, "");
  const keep = () => (names.kept ? cut.replace(names.kept, hold) : cut);
  cut = keep();
  cut = cut.replace(/[\uFF01-\uFF5E]/g, (sign) => String.fromCharCode(sign.charCodeAt(0) - 0xfee0));
  cut = cut.replace(/[\u3001\u3002\uFF61\uFF64\u060C\u061B]/g, ",").replace(/\u3000/g, " ");
  cut = keep();
  const isList = /[,;|\n]/.test(cut);
  const pieces = cut.split(/[,;|\n]/).map((piece) => release(piece).trim()).filter(Boolean);
  const emphasis = new Emphasis();
  const mentions = [];
  const unknown = new Set();
  const add = ({ found, opens, closes, name }) => {
    const mention = found && { index: found.index, weight: 1 };
    const before = emphasis.begin(opens, mention);
    const own = before * emphasis.end(closes);
    if (mention) mentions.push(Object.assign(mention, { weight: mention.weight * own }));
    else if (name && !/^[\s()[\]{}|]*$/.test(name) && !RATING.test(name.toLowerCase())) unknown.add(name);
  };
  for (const piece of pieces) {
    const isOne = !/\s/.test(piece);
    const whole = isOne || isList || /^[([{]/.test(piece) ? matched(names, piece) : undefined;
    if (whole && (whole.found || isOne)) {
      add(whole);
      continue;
    }
    const runs = runsOf(names, piece);
    const known = runs.filter((run) => run.found).length;
    if (isList && known < runs.length && known < 2) add(whole);
    else runs.forEach(add);
  }
  return { ...weighed(mentions), unknown: [...unknown] };
}

function weighed(mentions) {
  const byTag = new Map();
  for (const { index, weight } of mentions) byTag.set(index, [...(byTag.get(index) ?? []), weight]);
  const tags = [];
  const weights = [];
  const excluded = [];
  for (const [index, found] of byTag) {
    if (Math.min(...found) <= 0) {
      excluded.push(index);
      continue;
    }
    tags.push(index);
    weights.push(Number(Math.min(Math.max(...found, 0.001), 100).toPrecision(6)));
  }
  return { tags, weights, excluded };
}

// The page: a caption, how it is read, and its completions by the network in this page.

const K = 10;
const CATEGORY_TITLES = { general: "General", artist: "Artist", copyright: "Copyright", character: "Character", meta: "Meta" };
const $ = (id) => document.getElementById(id);

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// A tag's name, which may break after underscores.
function named(tag) {
  return tag.split(/(?<=_)/).flatMap((part) => [part, element("wbr")]);
}

async function bytesOf(base64) {
  const packed = Uint8Array.fromBase64?.(base64) ?? Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The tags that `tags` imply and that are not among them.
function impliedBy(vocab, tags) {
  const own = new Set(tags);
  return new Set(tags.flatMap((tag) => vocab.implications[tag] ?? []).filter((tag) => !own.has(tag)));
}

// The network, as the library computes with it: see `BooruEmbedder.complete`.
class Completer {
  static async load(vocab, files) {
    const { env, InferenceSession } = globalThis.ort;
    env.wasm.numThreads = 1; // more need headers that plain file servers do not send
    env.wasm.wasmBinary = (await bytesOf(files.runtime)).buffer;
    const made = new Completer();
    made.vocab = vocab;
    const options = { logSeverityLevel: 3 };
    made.encoder = await InferenceSession.create(await bytesOf(files.encoder), options);
    made.head = await InferenceSession.create(await bytesOf(files.completion), options);
    return made;
  }

  // What the caption excludes, and the tags that imply it.
  banned(excluded) {
    const left = new Set(excluded);
    for (const [cause, effects] of Object.entries(this.vocab.implications)) {
      if (effects.some((effect) => excluded.includes(effect))) left.add(Number(cause));
    }
    return left;
  }

  async logits(tags, weights) {
    const { num_special: special, summary, drops_implied: drops } = this.vocab;
    let given = tags.map((tag, place) => [tag, weights[place]]).sort((one, other) => one[0] - other[0]);
    if (drops) {
      const implied = new Set(tags.flatMap((tag) => (this.vocab.implications[tag] ?? []).filter((one) => one !== tag)));
      given = given.filter(([tag]) => !implied.has(tag));
    }
    const { Tensor } = globalThis.ort;
    const shape = [1, given.length + 1];
    const ids = BigInt64Array.from([summary, ...given.map(([tag]) => tag + special)], BigInt);
    const feeds = {
      input_ids: new Tensor("int64", ids, shape),
      attention_mask: new Tensor("int64", new BigInt64Array(ids.length).fill(1n), shape),
      weights: new Tensor("float32", Float32Array.from([1, ...given.map(([, weight]) => weight)]), shape),
    };
    const { state } = await this.encoder.run(feeds, ["state"]);
    const { logits } = await this.head.run({ state }, ["logits"]);
    return logits.data;
  }

  // Index and probability of the `k` most probable further tags of each category, the most probable first.
  async complete({ tags, weights, excluded }, k = K) {
    const scores = Float64Array.from(await this.logits(tags, weights));
    for (const tag of [...this.vocab.unknown, ...tags, ...impliedBy(this.vocab, tags), ...this.banned(excluded)]) {
      scores[tag] = -Infinity; // not offered
    }
    const highest = scores.reduce((one, other) => Math.max(one, other), -Infinity);
    const total = scores.reduce((sum, score) => sum + Math.exp(score - highest), 0);
    const { firsts } = this.vocab;
    const found = firsts.flatMap((first, category) => mostOf(scores, first, firsts[category + 1] ?? scores.length, k));
    found.sort((one, other) => scores[other] - scores[one] || one - other);
    return found.map((tag) => ({ tag, probability: Math.exp(scores[tag] - highest) / total }));
  }
}

// The indices of the `k` highest finite scores from `start` to `end`; of equal ones the first.
function mostOf(scores, start, end, k) {
  const found = [];
  for (let index = start; index < end; index++) {
    if (scores[index] === -Infinity || (found.length === k && scores[index] <= scores[found[k - 1]])) continue;
    let place = found.length;
    while (place > 0 && scores[found[place - 1]] < scores[index]) place--;
    found.splice(place, 0, index);
    if (found.length > k) found.pop();
  }
  return found;
}

function shown(probability) {
  const percent = 100 * probability;
  return percent < 0.001 ? "< 0.001 %" : `${Number(percent.toPrecision(2))} %`;
}

// Tags and aliases that begin as the last piece of the caption, the most used first.
function beginning(names, vocab, text) {
  const typed = /[^,;|\n]*$/.exec(text)[0].trimStart().replace(/^[([{"]+/, "");
  const prefix = unescaped(typed.toLowerCase().replace(/\s+/g, "_"));
  if (!prefix) return [];
  const found = new Map();
  for (const ids of [names.ids, names.aliases]) {
    for (const [name, tag] of ids) {
      if (name.toLowerCase().startsWith(prefix) && !found.has(tag)) found.set(tag, ids === names.ids ? "" : name);
    }
  }
  const sorted = [...found].sort(([one], [other]) => vocab.counts[other] - vocab.counts[one] || one - other);
  return sorted.slice(0, K).map(([tag, alias]) => ({ tag, alias, typed: typed.length }));
}

function start(vocab, files) {
  const names = new Names(vocab);
  const caption = $("caption");
  const list = $("options");
  const categoryOf = (tag) => vocab.categories[names.category(tag)];
  const spelled = (tag) => {
    const name = vocab.spellings[tag] ?? vocab.tags[tag];
    const isWords = /[\p{L}\p{N}]{2}/u.test(name) && !/^_|__|_$/.test(name); // others, such as >_<, keep underscores
    const text = name.replace(/[\\()[\]]/g, "\\$&");
    return isWords ? text.replaceAll("_", " ") : text;
  };
  let options = [];
  let chosen = -1;
  let asked = 0;
  let completer;

  function close() {
    options = [];
    list.hidden = true;
    caption.setAttribute("aria-expanded", "false");
    caption.removeAttribute("aria-activedescendant");
  }

  function suggest() {
    options = beginning(names, vocab, caption.value.slice(0, caption.selectionStart));
    chosen = -1;
    list.replaceChildren(
      ...options.map(({ tag, alias }, index) => {
        const name = element("span", { className: "name" }, ...(alias ? [element("span", { className: "alias" }, `${alias} → `)] : []), vocab.tags[tag]);
        const count = element("span", { className: "note" }, vocab.counts[tag].toLocaleString("en"));
        const item = element("li", { id: `option-${index}`, className: categoryOf(tag), role: "option" }, name, count);
        item.addEventListener("pointerdown", (event) => {
          event.preventDefault();
          take(index);
        });
        return item;
      }),
    );
    list.hidden = options.length === 0;
    caption.setAttribute("aria-expanded", String(!list.hidden));
  }

  function choose(index) {
    chosen = index;
    [...list.children].forEach((item, place) => item.setAttribute("aria-selected", String(place === chosen)));
    caption.setAttribute("aria-activedescendant", `option-${chosen}`);
    list.children[chosen].scrollIntoView({ block: "nearest" });
  }

  function take(index) {
    const { tag, typed } = options[index];
    const end = caption.selectionStart;
    caption.setRangeText(`${spelled(tag)}, `, end - typed, end, "end");
    close();
    changed();
  }

  function add(tag) {
    const before = caption.value.trim().replace(/,$/, "");
    caption.value = `${before ? `${before}, ` : ""}${spelled(tag)}, `;
    caption.focus();
    changed();
  }

  function showRead({ tags, weights, unknown, excluded }) {
    const chip = (className, text, note) =>
      element("li", { className: `chip ${className}` }, element("span", { className: "name" }, text, element("span", { className: "weight" }, note)));
    $("chips").replaceChildren(
      ...tags.map((tag, place) => chip(categoryOf(tag), vocab.tags[tag], weights[place] === 1 ? "" : ` × ${weights[place]}`)),
      ...excluded.map((tag) => chip("excluded", vocab.tags[tag], " excluded")),
      ...unknown.map((name) => chip("unknown", name, " unknown")),
    );
    const implied = [...impliedBy(vocab, tags)].sort((one, other) => one - other).map((tag) => vocab.tags[tag]);
    $("implied").textContent = implied.length ? `Left out, since the caption implies them: ${implied.join(", ")}` : "";
  }

  function showCompletions(found) {
    const columns = vocab.categories.map((category) => [category, found.filter(({ tag }) => categoryOf(tag) === category)]);
    $("columns").replaceChildren(
      ...columns.filter(([, rows]) => rows.length).map(([category, rows]) =>
        element("section", { className: `card ${category}` },
          element("h3", {}, CATEGORY_TITLES[category]),
          element("ul", {}, ...rows.map(({ tag, probability }) => {
            const bar = element("span", { className: "bar" });
            bar.style.width = `${Math.sqrt(probability / rows[0].probability) * 100}%`;
            const button = element("button", { type: "button", className: "row" }, bar,
              element("span", { className: "name" }, ...named(vocab.tags[tag])), element("span", { className: "note" }, shown(probability)));
            button.addEventListener("click", () => add(tag));
            return element("li", {}, button);
          })))),
    );
    $("columns").setAttribute("aria-busy", "false");
  }

  async function changed() {
    const reading = read(names, caption.value);
    showRead(reading);
    if (!completer) return;
    const number = ++asked;
    $("columns").setAttribute("aria-busy", "true");
    const found = await completer.complete(reading);
    if (number === asked) showCompletions(found);
  }

  caption.addEventListener("input", () => {
    suggest();
    changed();
  });
  caption.addEventListener("blur", close);
  caption.addEventListener("keydown", (event) => {
    if (list.hidden) return;
    if (event.key === "ArrowDown") choose((chosen + 1) % options.length);
    else if (event.key === "ArrowUp") choose(chosen > 0 ? chosen - 1 : options.length - 1);
    else if ((event.key === "Enter" || event.key === "Tab") && chosen >= 0) take(chosen);
    else if (event.key === "Enter") close();
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
  });
  $("clear").addEventListener("click", () => {
    caption.value = "";
    caption.focus();
    changed();
  });
  $("facts").textContent = `${(vocab.tags.length - vocab.unknown.length).toLocaleString("en")} tags, computed in this page`;
  changed();
  return Completer.load(vocab, files).then((loaded) => {
    completer = loaded;
    Object.assign(globalThis.demo, { names, completer });
    $("state").hidden = true;
    return changed();
  });
}

// For the console, and for tests.
globalThis.demo = { Names, read };
const { vocab, ...files } = globalThis.booruEmbed;
start(vocab, files).catch((error) => {
  $("state").textContent = `The network could not be loaded: ${error.message ?? error}`;
  $("state").classList.add("problem");
  throw error;
});

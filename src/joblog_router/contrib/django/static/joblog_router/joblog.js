// The page of a job's log: follows it, and shows a few dozen of up to millions of lines at a time.
//
// One module without dependencies. Everything logged is hostile: it becomes text nodes, never markup.
// Lines are kept in the order of time, origin and number, a contiguous part of the log; `above` and `below` say how many
// are thought to lie outside of it. Where the reader scrolls there, that part is fetched by time.

const ROW = 20; // pixels, as in joblog.css
const ROW_NARROW = 40; // two lines of text, as there
const NARROW = 40; // rem: where the log has less room it is laid out for a telephone, in a narrow column, too
const PAGE = 500;
const NEAR = 4000;
const MOST_LOADED = 50000;
const MOST_PIXELS = 12e6; // browsers draw no taller element
const KEEP_RECENT = 5000;
const BUCKETS = 80;
const POLL = 2000;
const RETRY_STREAM = 30000;
const FRESH = 600; // seconds: a log whose last line is older is not called live
const LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];
const NUMBERS = { DEBUG: 10, INFO: 20, WARNING: 30, ERROR: 40, CRITICAL: 50 };
const KINDS = ["debug", "info", "warning", "error", "critical"];

// --- text -----------------------------------------------------------------------------------------------------------

// The same as UNPRINTABLE in _pipeline/text.py.
const INVISIBLE =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\u{e0000}-\u{e007f}]/gu;
const COLOUR = /\u001b\[([0-9;:]*)m/;

function shown(character) {
  const code = character.codePointAt(0);
  if (code < 0x20) return String.fromCharCode(0x2400 + code);
  if (code > 0xffff) return "\\U" + code.toString(16).padStart(8, "0");
  return code === 0x7f ? "\u2421" : "\\u" + code.toString(16).padStart(4, "0");
}

/** Text without colour codes, with other control characters and direction marks shown instead of obeyed. */
export function visible(text) {
  return text.replaceAll("\r\n", "\n").split(new RegExp(COLOUR, "g")).filter((_, n) => n % 2 === 0).join("").replace(INVISIBLE, shown);
}

/** Text as pieces, each with the classes of the colour codes before it. */
export function pieces(text) {
  const found = [];
  let style = { fg: "", bold: false, dim: false, underline: false };
  text.replaceAll("\r\n", "\n").split(new RegExp(COLOUR, "g")).forEach((part, n) => {
    if (n % 2) {
      style = styled(style, part);
    } else if (part) {
      const classes = [];
      if (style.fg) classes.push("jl-fg-" + style.fg);
      for (const name of ["bold", "dim", "underline"]) if (style[name]) classes.push("jl-" + name);
      found.push([part.replace(INVISIBLE, shown), classes.join(" ")]);
    }
  });
  return found;
}

function styled(style, codes) {
  const next = { ...style };
  const numbers = codes.split(/[;:]/).map(Number);
  for (let n = 0; n < numbers.length; n++) {
    const code = numbers[n];
    if (code === 0) Object.assign(next, { fg: "", bold: false, dim: false, underline: false });
    else if (code === 1) next.bold = true;
    else if (code === 2) next.dim = true;
    else if (code === 4) next.underline = true;
    else if (code === 22) next.bold = next.dim = false;
    else if (code === 24) next.underline = false;
    else if (code >= 30 && code <= 37) next.fg = String(code - 30);
    else if (code >= 90 && code <= 97) next.fg = String(code - 90);
    else if (code === 39) next.fg = "";
    else if (code === 38 || code === 48) {
      const long = numbers[n + 1] === 2;
      if (code === 38 && !long && numbers[n + 2] < 16) next.fg = String(numbers[n + 2] % 8);
      n += long ? 4 : 2;
    }
  }
  return next;
}

/** A number as the page's language writes it. */
function number(n) {
  try {
    return n.toLocaleString(document.documentElement.lang || undefined);
  } catch {
    return n.toLocaleString(); // a tag that is none
  }
}

function element(name, classes, ...children) {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  made.append(...children);
  return made;
}

function button(text, action, classes = "") {
  const made = element("button", classes, text);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

/** Fill `node` with `text`, its colours and, where `search` stands in it, marks. */
function fill(node, text, search, limit = Infinity) {
  const wanted = search.toLowerCase();
  for (const [part, classes] of pieces(text.length > limit ? text.slice(0, limit) + "…" : text)) {
    const target = classes ? element("span", classes) : node;
    if (wanted && part.toLowerCase().length === part.length) {
      const low = part.toLowerCase();
      let from = 0;
      for (let at = low.indexOf(wanted); at >= 0; at = low.indexOf(wanted, from)) {
        target.append(part.slice(from, at), element("mark", "", part.slice(at, at + wanted.length)));
        from = at + wanted.length;
      }
      target.append(part.slice(from));
    } else {
      target.append(part);
    }
    if (classes) node.append(target);
  }
}

// --- lines ----------------------------------------------------------------------------------------------------------

function compare(a, b) {
  return a.created - b.created || (a.origin < b.origin ? -1 : a.origin > b.origin ? 1 : a.seq - b.seq);
}

function keyOf(line) {
  return `${line.origin}:${line.seq}`;
}

/** The first place in `lines` that is not before `line`. */
function placeOf(lines, line) {
  let low = 0;
  let high = lines.length;
  if (high && compare(lines[high - 1], line) < 0) return high;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compare(lines[middle], line) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

function foldOf(line) {
  return line.fields && line.fields.folded !== undefined ? line.fields.fold : undefined;
}

/** `more` put into `lines` where each belongs; what is there already stays, of a fold the newest tally does. */
export function merged(lines, more) {
  const found = lines.slice();
  for (const line of more) {
    const fold = foldOf(line);
    if (fold !== undefined) {
      const old = found.findIndex((other) => foldOf(other) === fold);
      if (old >= 0) {
        if (compare(found[old], line) >= 0) continue;
        found.splice(old, 1);
      }
    }
    const place = placeOf(found, line);
    if (place === found.length || compare(found[place], line) !== 0) found.splice(place, 0, line);
  }
  return found;
}

function kindOf(line) {
  return KINDS[Math.min(4, Math.max(0, Math.floor(line.levelno / 10) - 1))];
}

// --- the log ----------------------------------------------------------------------------------------------------------

class JobLog {
  constructor(root) {
    this.root = root;
    this.base = new URL(root.dataset.url, document.baseURI);
    this.texts = JSON.parse(root.dataset.texts);
    this.isEmbedded = root.dataset.embedded !== undefined;
    this.isNarrow = this.lacksRoom();
    this.pitch = this.isNarrow ? ROW_NARROW : ROW;
    this.lines = [];
    this.recent = [];
    this.above = 0;
    this.below = 0;
    this.atStart = false;
    this.atEnd = true;
    this.follows = true;
    this.unseen = 0;
    this.open = new Map(); // key -> pixels of the details
    this.rows = new Map(); // index -> element
    this.current = null;
    this.figures = null;
    this.cursor = "";
    this.origins = new Map(); // each process that is known, and its number
    this.time = this.recall("time") || "local";
    this.round = 0; // counts new beginnings: other filters, another log
    this.epoch = 0; // counts moves to another part: answers to what was asked before are of no use
    const here = new URL(location.href).searchParams;
    this.filters = {};
    for (const name of ["level", "logger", "origin", "text"]) this.filters[name] = this.isEmbedded ? "" : here.get(name) || "";
    this.search = this.isEmbedded ? "" : here.get("q") || "";
    this.build();
    this.start(this.isEmbedded ? null : this.linked(), true);
  }

  t(name, values = {}) {
    return (this.texts[name] || name).replace(/%\((\w+)\)s/g, (_, key) => values[key]);
  }

  /** A text with a number in it, in the form that the language has for that number. */
  count(name, n) {
    const { forms, of } = this.texts[name];
    const form = forms[of[n < 200 ? n : 100 + (n % 100)]];
    return form.replace("%(n)s", number(n));
  }

  recall(name) {
    try {
      return localStorage.getItem("joblog." + name);
    } catch {
      return null;
    }
  }

  remember(name, value) {
    try {
      localStorage.setItem("joblog." + name, value);
    } catch {
      // a reader who keeps no site data
    }
  }

  // --- asking the server ---

  url(name, parameters = {}) {
    const made = new URL(name + "/", this.base);
    for (const [key, value] of Object.entries({ ...this.filters, ...parameters }))
      if (value !== "" && value !== null && value !== undefined) made.searchParams.set(key, value);
    return made;
  }

  async get(name, parameters) {
    const answer = await fetch(this.url(name, parameters), { headers: { Accept: "application/json" } });
    if (!answer.ok) {
      const text = await answer.json().then((found) => found.error, () => "");
      throw new Error(text || this.t(answer.status === 404 ? "absent" : "failed"));
    }
    const found = await answer.json();
    this.meet((found.entries || []).map((line) => line.origin));
    return found;
  }

  /** Each process has its colour before a line of it is drawn, and keeps it; all lines show theirs where there are several. */
  meet(origins) {
    for (const origin of origins) if (!this.origins.has(origin)) this.origins.set(origin, this.origins.size);
    this.list.classList.toggle("jl-several", this.origins.size > 1);
  }

  async start(at = null, isFirst = false) {
    const round = ++this.round;
    this.epoch++;
    this.stop();
    this.lines = [];
    this.recent = [];
    this.open.clear();
    this.above = this.below = this.unseen = 0;
    this.say("");
    try {
      const newest = await this.get("entries", { limit: PAGE });
      if (round !== this.round) return;
      this.cursor = newest.next;
      this.lines = merged([], newest.entries);
      this.atEnd = true;
      this.atStart = newest.earlier === null;
      this.above = this.atStart ? 0 : PAGE;
      this.redraw();
      this.listen();
      this.figure(round, true).then(() => {
        if (round !== this.round) return;
        this.figuresLater();
        // Of a job that failed the first error is what one came for.
        const { job, first_error: error } = this.figures || {};
        if (!at && isFirst && job && job.failed && error && this.current === null) this.reveal(error);
      });
      if (at) {
        await this.reveal(at);
      } else {
        this.follow(true);
        if (!this.lines.length) this.say(this.isFiltered() ? this.t("nothing") : this.t("empty"));
      }
    } catch (error) {
      if (round === this.round) this.say(error.message);
    }
  }

  isFiltered() {
    return Object.values(this.filters).some(Boolean);
  }

  async figure(round, isFirst) {
    let found;
    try {
      found = await this.get("summary", { buckets: BUCKETS, level: "", logger: "", origin: "", text: "" });
    } catch {
      return;
    }
    if (round !== this.round) return;
    // Whoever opens a log finds the processes in the order that all others do, as soon as that is known.
    const shown = [...this.origins.keys()];
    if (!this.figures) this.origins.clear();
    this.figures = found;
    this.meet([...found.origins, ...shown]);
    if (shown.some((origin, n) => this.origins.get(origin) !== n)) this.redraw();
    if (isFirst && this.atEnd && this.above) {
      const top = this.lines[this.firstVisible() - this.above];
      this.above = Math.max(this.guess() - this.lines.length, this.atStart ? 0 : PAGE);
      if (!this.follows) this.keep(top); // whoever went somewhere before the figures came stays there
    }
    this.showFigures();
    if (this.time === "relative" && isFirst) this.redraw();
    else this.draw();
  }

  figuresLater() {
    clearTimeout(this.figureTimer);
    const round = this.round;
    this.figureTimer = setTimeout(async () => {
      const { job } = this.figures || {};
      this.showStatus();
      if (document.visibilityState === "visible" && (this.isStale || (job && !job.done))) {
        this.isStale = false;
        await this.figure(round, false);
      }
      if (round === this.round) this.figuresLater();
    }, 5000);
  }

  /** The number of the level that is filtered by, 0 without. */
  least() {
    const { level } = this.filters;
    return NUMBERS[level.toUpperCase()] || Number(level) || 0;
  }

  /** How many lines there are with these filters, as far as one can tell. */
  guess() {
    const { logger, origin, text } = this.filters;
    if (!this.figures || logger || origin || text) return this.lines.length;
    const least = this.least();
    return Object.entries(this.figures.levels)
      .filter(([name]) => (NUMBERS[name] ?? 100) >= least)
      .reduce((sum, [, n]) => sum + n, 0);
  }

  // --- following ---

  listen() {
    this.stop();
    if (document.visibilityState === "hidden") return;
    // Where lines are asked for they go on coming: that a stream is tried for is no news.
    if (this.statusNode.dataset.state !== "polling") this.status("connecting");
    const source = new EventSource(this.url("stream", { after: this.cursor }));
    this.source = source;
    const note = (event) => {
      if (event.lastEventId) this.cursor = event.lastEventId;
    };
    source.addEventListener("open", () => this.status("live"));
    source.addEventListener("lines", (event) => {
      note(event);
      this.take(JSON.parse(event.data).entries);
    });
    source.addEventListener("skipped", (event) => {
      this.skip(JSON.parse(event.data).lines);
    });
    source.addEventListener("reset", () => this.start());
    source.addEventListener("end", (event) => {
      note(event);
      this.listen();
    });
    source.addEventListener("error", () => {
      if (source !== this.source) return;
      if (source.readyState === EventSource.CLOSED) this.poll();
      else this.status("connecting");
    });
  }

  /** Ask every few seconds where no stream can be had, and try for one again later. */
  poll() {
    this.stop();
    this.status("polling");
    const until = Date.now() + RETRY_STREAM;
    const ask = async () => {
      try {
        const found = await this.get("entries", { after: this.cursor });
        this.cursor = found.next;
        this.take(found.entries);
        this.status("polling");
        if (found.more) return void (this.poller = setTimeout(ask, 0));
      } catch {
        this.status("connecting");
      }
      if (Date.now() > until) this.listen();
      else this.poller = setTimeout(ask, POLL);
    };
    this.poller = setTimeout(ask, POLL / 4);
  }

  stop() {
    if (this.source) this.source.close();
    this.source = null;
    clearTimeout(this.poller);
  }

  /** `n` lines were too many to be sent: they are fetched when somebody scrolls there. */
  skip(n) {
    this.recent = [];
    this.isStale = true;
    if (this.follows && this.atEnd) {
      this.above += this.lines.length + n;
      this.lines = [];
      this.atStart = false;
      this.open.clear();
    } else {
      this.atEnd = false;
      this.below += n;
      this.unseen += n;
    }
  }

  take(entries) {
    if (!entries.length) return;
    this.isStale = true;
    this.meet(entries.map((line) => line.origin));
    this.recent = merged(this.recent, entries).slice(-KEEP_RECENT);
    this.showStatus();
    if (!this.atEnd) {
      this.below += entries.length;
      this.unseen += entries.length;
    } else {
      const before = this.lines.length;
      const top = this.lines[this.firstVisible() - this.above];
      this.lines = merged(this.lines, entries);
      this.unseen += this.follows ? 0 : Math.max(0, this.lines.length - before);
      if (this.follows && this.lines.length > MOST_LOADED) {
        const cut = this.lines.length - MOST_LOADED / 2;
        this.lines = this.lines.slice(cut);
        this.above += cut;
        this.atStart = false;
      } else if (!this.follows && top && entries.some((line) => compare(line, top) < 0)) {
        this.keep(top); // what came late was logged earlier: what is read stays where it is
      }
      this.say("");
    }
    this.rows.forEach((row) => row.remove());
    this.rows.clear();
    this.draw();
  }

  follow(on) {
    this.follows = on;
    this.followButton.setAttribute("aria-pressed", String(on));
    this.view.setAttribute("aria-live", on ? "off" : "off");
    if (on) {
      this.unseen = 0;
      if (!this.atEnd) return void this.toEnd();
    }
    this.draw();
  }

  async toEnd() {
    this.follows = true;
    const epoch = ++this.epoch;
    const newest = await this.get("entries", { limit: PAGE }).catch((error) => this.say(error.message));
    if (!newest || epoch !== this.epoch) return;
    const total = this.above + this.lines.length + this.below;
    this.lines = merged(newest.entries, this.recent.filter((line) => !newest.entries.length || compare(line, newest.entries[0]) > 0));
    this.atEnd = true;
    this.atStart = newest.earlier === null;
    this.below = 0;
    this.above = this.atStart ? 0 : Math.max(PAGE, total - this.lines.length);
    this.redraw();
  }

  // --- moving about ---

  /** Show the lines around `line` (created, and origin and seq where known), and make it the current one. */
  async reveal(line, index = null) {
    this.follow(false);
    const known = this.lines.find((other) => keyOf(other) === keyOf(line));
    if (known) return this.focusOn(known);
    const epoch = ++this.epoch;
    this.moving = epoch;
    let before;
    let after;
    try {
      [before, after] = await Promise.all([
        this.get("entries", { until: line.created, limit: PAGE }),
        this.get("entries", { since: line.created, limit: PAGE }),
      ]);
    } catch (error) {
      return this.say(error.message);
    } finally {
      if (this.moving === epoch) this.moving = 0;
    }
    if (epoch !== this.epoch) return;
    const total = Math.max(this.above + this.lines.length + this.below, this.guess());
    this.lines = merged(before.entries, after.entries);
    this.atStart = !before.more;
    this.atEnd = !after.more;
    if (this.atEnd) this.lines = merged(this.lines, this.recent.filter((one) => this.lines.length && compare(one, this.lines.at(-1)) > 0));
    const place = placeOf(this.lines, line);
    if (index === null) index = this.indexAt(line.created, total);
    this.above = this.atStart ? 0 : Math.max(1, Math.round(index) - place);
    this.below = this.atEnd ? 0 : Math.max(1, total - this.above - this.lines.length);
    if (this.atEnd && !this.atStart) this.above = Math.max(1, total - this.lines.length);
    this.redraw();
    const found = this.lines[Math.min(place, this.lines.length - 1)];
    if (found) this.focusOn(found);
  }

  /** Where in `total` lines one of that time is, by the histogram. */
  indexAt(created, total) {
    const { figures } = this;
    if (!figures || figures.last <= figures.first) return 0;
    const sums = (figures.histogram || []).map((part) => Object.values(part).reduce((a, b) => a + b, 0));
    const all = sums.reduce((a, b) => a + b, 0);
    const at = Math.min(1, Math.max(0, (created - figures.first) / (figures.last - figures.first)));
    if (!all) return at * total;
    const place = at * sums.length;
    const whole = Math.min(sums.length - 1, Math.floor(place));
    const sum = sums.slice(0, whole).reduce((a, b) => a + b, 0) + sums[whole] * (place - whole);
    return (sum / all) * total;
  }

  timeAt(index, total) {
    const { figures } = this;
    if (!figures || !total) return 0;
    const sums = (figures.histogram || []).map((part) => Object.values(part).reduce((a, b) => a + b, 0));
    const all = sums.reduce((a, b) => a + b, 0);
    const span = figures.last - figures.first;
    let left = (index / total) * all;
    for (let n = 0; n < sums.length; n++) {
      if (left < sums[n]) return figures.first + ((n + left / sums[n]) / sums.length) * span;
      left -= sums[n];
    }
    return figures.last;
  }

  /** Fetch what the reader looks at and is not here. */
  async fetchAround(first, last) {
    if (this.isFetching || this.moving) return;
    const end = this.above + this.lines.length;
    const epoch = this.epoch;
    this.isFetching = true;
    try {
      if (first < this.above && last > this.above - NEAR && this.lines.length && !this.atStart) {
        const top = this.lines[Math.max(0, first - this.above)];
        const found = await this.get("entries", { until: this.lines[0].created, limit: PAGE });
        if (epoch !== this.epoch) return;
        const before = this.lines.length;
        this.lines = merged(this.lines, found.entries);
        const added = this.lines.length - before;
        this.atStart = !found.more || !added;
        this.above = this.atStart ? 0 : Math.max(PAGE, this.above - added);
        this.redraw();
        if (top && first >= this.above) this.keep(top);
        else if (this.atStart || this.above === PAGE) this.keep(top, first);
      } else if (last >= end && first < end + NEAR && this.lines.length && !this.atEnd) {
        const found = await this.get("entries", { since: this.lines.at(-1).created, limit: PAGE });
        if (epoch !== this.epoch) return;
        const before = this.lines.length;
        this.lines = merged(this.lines, found.entries);
        this.atEnd = !found.more || this.lines.length === before;
        if (this.atEnd) this.lines = merged(this.lines, this.recent.filter((line) => compare(line, this.lines[0]) > 0));
        this.below = this.atEnd ? 0 : Math.max(PAGE, this.below - (this.lines.length - before));
        this.redraw();
      } else if ((first < this.above && !this.atStart) || (last >= end && !this.atEnd)) {
        await this.jumpTo(first, last);
      }
    } catch (error) {
      this.say(error.message);
    } finally {
      this.isFetching = false;
    }
  }

  async jumpTo(first, last) {
    if (!this.figures) return; // they tell what time it is there
    const total = this.above + this.lines.length + this.below;
    const middle = (first + last) / 2;
    const created = this.timeAt(middle, total);
    const epoch = ++this.epoch;
    const [before, after] = await Promise.all([
      this.get("entries", { until: created, limit: PAGE }),
      this.get("entries", { since: created, limit: PAGE }),
    ]);
    if (epoch !== this.epoch) return;
    const place = before.entries.length;
    this.lines = merged(before.entries, after.entries);
    this.atStart = !before.more;
    this.atEnd = !after.more;
    this.above = this.atStart ? 0 : Math.max(1, Math.round(middle) - place);
    this.below = this.atEnd ? 0 : Math.max(1, total - this.above - this.lines.length);
    this.redraw();
  }

  focusOn(line) {
    this.current = keyOf(line);
    const index = this.above + placeOf(this.lines, line);
    this.scrollTo(this.offset(index) - Math.max(0, (this.view.clientHeight - this.pitch) / 3));
    this.redraw();
    this.address();
    this.announce(this.spoken(line));
  }

  currentIndex() {
    return this.current === null ? -1 : this.lines.findIndex((line) => keyOf(line) === this.current);
  }

  /** The line from which next and previous count. */
  origin(step) {
    const at = this.currentIndex();
    if (at >= 0) return this.lines[at];
    if (this.follows && step < 0) return null;
    // What is in sight is found, too, whichever way.
    const index = step > 0 ? this.firstVisible() : this.indexOf(this.top() + this.view.clientHeight - 1);
    return this.lines[Math.min(this.lines.length - 1, Math.max(0, index - this.above))] || null;
  }

  /** Go to the next (or previous) line that `parameters` choose, wherever in the log it is, and around its ends. */
  async go(step, parameters, what) {
    const from = this.origin(step);
    this.announce(this.t("searching"));
    try {
      let line = await this.nearest(step, parameters, from);
      const isAround = !line && from !== null;
      if (isAround) line = await this.nearest(step, parameters, null);
      if (!line) return this.announce(this.t(this.isFiltered() ? `${what}_filtered` : `${what}_none`), true);
      if (keyOf(line) === this.current) return this.announce(this.t(`${what}_only`), true);
      await this.reveal(line);
      if (isAround) this.announce(this.t(step > 0 ? "fromfirst" : "fromlast"), true, this.spoken(line));
    } catch (error) {
      this.say(error.message);
    }
  }

  /** The line that `parameters` choose which is nearest to `from`, or to the log's end, null where there is none. */
  async nearest(step, parameters, from) {
    const bound = from ? { [step > 0 ? "since" : "until"]: from.created } : step > 0 ? { since: 0 } : { until: 9e11 };
    for (let limit = 20; limit <= 1000; limit *= 7) {
      const found = await this.get("entries", { ...parameters, ...bound, limit });
      const hits = found.entries.filter((line) => !from || this.current === null || compare(line, from) * step > 0);
      if (hits.length) return step > 0 ? hits[0] : hits.at(-1);
      if (!found.more) break;
    }
    return null;
  }

  goError(step) {
    return this.go(step, { level: this.least() > NUMBERS.ERROR ? this.filters.level : "ERROR" }, "error");
  }

  goFound(step) {
    return this.search ? this.go(step, { text: this.search }, "text") : this.focusSearch();
  }

  focusSearch() {
    this.unfold(true);
    this.searchField.focus();
  }

  /** On narrow windows filters and the like are shown where asked for. */
  unfold(isOpen) {
    this.bar.classList.toggle("jl-unfolded", isOpen);
    this.foldButton.setAttribute("aria-expanded", String(isOpen));
  }

  showFilters() {
    const n = Object.values(this.filters).filter(Boolean).length;
    this.foldButton.textContent = this.t("filters") + (n ? ` (${n})` : "");
    for (const chip of this.figuresNode.querySelectorAll("[aria-pressed]")) chip.setAttribute("aria-pressed", String(NUMBERS[chip.dataset.key] === this.least()));
  }

  // --- where what is ---

  total() {
    return this.above + this.lines.length + this.below;
  }

  /** Pixels of opened details before the line at `index`. */
  extraBefore(index) {
    let sum = 0;
    for (const [key, height] of this.open) {
      const at = this.openPlaces.get(key);
      if (at !== undefined && at + this.above < index) sum += height;
    }
    return sum;
  }

  offset(index) {
    return index * this.pitch + this.extraBefore(index);
  }

  indexOf(offset) {
    let index = Math.floor(offset / this.pitch);
    if (!this.open.size) return Math.max(0, index);
    let low = 0;
    let high = Math.max(0, index) + 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.offset(middle + 1) <= offset) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  placeOpen() {
    this.openPlaces = new Map();
    if (this.open.size) this.lines.forEach((line, n) => this.open.has(keyOf(line)) && this.openPlaces.set(keyOf(line), n));
  }

  height() {
    return this.offset(this.total());
  }

  scale() {
    const room = Math.min(this.height(), MOST_PIXELS) - this.view.clientHeight;
    return this.height() > MOST_PIXELS && room > 0 ? (this.height() - this.view.clientHeight) / room : 1;
  }

  top() {
    const scale = this.scale();
    if (scale === 1) return this.view.scrollTop;
    if (this.exact !== undefined && Math.abs(this.exact / scale - this.view.scrollTop) < 2) return this.exact;
    return this.view.scrollTop * scale;
  }

  scrollTo(top) {
    const most = Math.max(0, this.height() - this.view.clientHeight);
    this.exact = Math.min(most, Math.max(0, top));
    this.sizeSpace();
    this.view.scrollTop = this.exact / this.scale();
  }

  keep(line, index = null) {
    if (!line) return;
    const shift = this.top() % this.pitch;
    this.scrollTo(this.offset(index === null || this.lines.includes(line) ? this.above + placeOf(this.lines, line) : index) + shift);
    this.draw();
  }

  firstVisible() {
    return this.indexOf(this.top());
  }

  sizeSpace() {
    const height = `${Math.min(this.height(), MOST_PIXELS)}px`;
    if (this.space.style.height !== height) this.space.style.height = height;
  }

  // --- drawing ---

  redraw() {
    this.rows.forEach((row) => row.remove());
    this.rows.clear();
    this.draw();
  }

  draw() {
    if (this.isDrawing) return;
    this.isDrawing = true;
    requestAnimationFrame(() => {
      this.isDrawing = false;
      this.drawNow();
    });
  }

  drawNow() {
    this.placeOpen();
    this.sizeSpace();
    if (this.follows) {
      this.view.scrollTop = this.view.scrollHeight;
      this.exact = undefined;
    }
    const top = this.top();
    const first = Math.max(0, this.indexOf(top) - 8);
    const last = Math.min(this.total(), this.indexOf(top + this.view.clientHeight) + 9);
    this.list.style.transform = `translateY(${this.view.scrollTop - (top - this.offset(first))}px)`;
    for (const [index, row] of this.rows) {
      if (index < first || index >= last) {
        row.remove();
        this.rows.delete(index);
      }
    }
    let next = null;
    for (let index = last - 1; index >= first; index--) {
      let row = this.rows.get(index);
      if (!row) {
        const line = this.lines[index - this.above];
        row = line ? this.row(line) : element("li", "jl-row jl-absent", "…");
        this.rows.set(index, row);
        this.list.insertBefore(row, next);
      }
      next = row;
    }
    this.measure();
    this.newButton.hidden = !this.unseen;
    this.newButton.textContent = this.unseen ? this.count("new", this.unseen) + " ↓" : "";
    if (first < this.above || last > this.above + this.lines.length) this.fetchAround(first, last);
  }

  /** Take note of the height of opened details. */
  measure() {
    let changed = false;
    for (const row of this.rows.values()) {
      const details = row.details;
      if (!details) continue;
      const height = details.offsetHeight;
      if (height !== this.open.get(row.key)) {
        this.open.set(row.key, height);
        changed = true;
      }
    }
    if (changed) this.draw();
  }

  row(line) {
    const key = keyOf(line);
    const row = element("li", `jl-row jl-${kindOf(line)}`);
    row.key = key;
    row.id = `jl-${key}`;
    if (key === this.current) {
      row.classList.add("jl-current");
      row.setAttribute("aria-current", "true");
    }
    const head = element("div", "jl-head");
    const time = element("time", "jl-time", this.timeText(line.created));
    time.dateTime = new Date(line.created * 1000).toISOString();
    time.title = time.dateTime;
    head.append(time, element("span", "jl-level", visible(line.level)));
    const origin = element("span", `jl-origin jl-origin-${this.origins.get(line.origin) % 6}`, "●");
    origin.title = visible(line.origin);
    origin.setAttribute("aria-hidden", "true");
    head.append(origin);
    head.append(element("bdi", "jl-logger", visible(line.logger)));
    const text = element("span", "jl-text");
    text.dir = "auto";
    fill(text, line.message.replace(/\n/g, " ⏎ "), this.search, 600);
    head.append(text);
    if (foldOf(line) !== undefined) head.append(element("span", "jl-badge", this.count("folded", line.fields.folded)));
    if (line.audience && line.audience !== "all") head.append(element("span", "jl-badge", this.t("staff")));
    if (line.exception) head.append(element("span", "jl-badge jl-trace", this.t("traceback")));
    const isOpen = this.open.has(key);
    const toggle = button(isOpen ? "▾" : "▸", () => this.toggle(line), "jl-toggle");
    toggle.setAttribute("aria-expanded", String(isOpen));
    toggle.setAttribute("aria-label", this.t("details"));
    toggle.tabIndex = -1;
    head.prepend(toggle);
    row.append(head);
    if (isOpen) {
      row.details = this.details(line);
      row.append(row.details);
    }
    return row;
  }

  details(line) {
    const box = element("div", "jl-details");
    const message = element("pre", "jl-whole");
    message.dir = "auto";
    fill(message, line.message, this.search);
    box.append(message);
    if (line.exception) {
      const trace = element("pre", "jl-whole jl-exception");
      trace.dir = "ltr";
      fill(trace, line.exception, this.search);
      box.append(trace);
    }
    const list = element("dl", "jl-facts");
    const fact = (name, value) => {
      const detail = element("dd", "", visible(value));
      detail.dir = "auto";
      list.append(element("dt", "", element("bdi", "", visible(name))), detail);
    };
    for (const [name, value] of Object.entries(line.fields || {}))
      if (foldOf(line) === undefined || !["fold", "folded", "first", "last"].includes(name)) fact(name, typeof value === "string" ? value : JSON.stringify(value));
    fact(this.t("logger"), line.logger);
    fact(this.t("process"), `${line.origin} #${line.seq}`);
    if (line.path) fact(this.t("place"), `${line.path}:${line.line}`);
    fact(this.t("time"), new Date(line.created * 1000).toISOString());
    box.append(list);
    const tools = element("p", "jl-tools");
    const copy = button(this.t("copy"), async () => {
      await navigator.clipboard.writeText(visible(line.message) + (line.exception ? "\n" + visible(line.exception) : ""));
      this.announce(this.t("copied"), true);
    });
    const link = element("a", "", this.t("permalink"));
    link.href = this.permalink(line);
    tools.append(copy, " ", link);
    if (line.cut) tools.append(" ", element("span", "jl-badge", this.t("cut")));
    box.append(tools);
    return box;
  }

  toggle(line) {
    const key = keyOf(line);
    this.follow(false);
    this.current = key;
    if (!this.open.delete(key)) this.open.set(key, 0);
    this.redraw();
    this.address();
  }

  timeText(created) {
    if (this.time === "relative" && this.figures && this.figures.first !== null) {
      const seconds = created - this.figures.first;
      const sign = seconds < 0 ? "-" : "+";
      const all = Math.abs(seconds);
      const hours = Math.floor(all / 3600);
      const rest = `${String(Math.floor((all % 3600) / 60)).padStart(2, "0")}:${this.isNarrow ? String(Math.floor(all % 60)).padStart(2, "0") : (all % 60).toFixed(3).padStart(6, "0")}`;
      return `${sign}${hours}:${rest}`;
    }
    const moment = new Date(created * 1000);
    if (this.time === "utc" && this.isNarrow) return moment.toISOString().slice(11, 19);
    if (this.time === "utc") return moment.toISOString().slice(0, 23).replace("T", " ");
    const two = (number) => String(number).padStart(2, "0");
    const day = `${moment.getFullYear()}-${two(moment.getMonth() + 1)}-${two(moment.getDate())}`;
    const clock = `${two(moment.getHours())}:${two(moment.getMinutes())}:${two(moment.getSeconds())}`;
    if (this.isNarrow) return clock; // the day is in the line's details
    return `${day} ${clock}.${String(moment.getMilliseconds()).padStart(3, "0")}`;
  }

  // --- the frame ---

  build() {
    const { root } = this;
    root.replaceChildren();
    this.message = element("p", "jl-message");
    this.message.setAttribute("role", "alert");
    this.message.hidden = true;
    this.live = element("p", "jl-live");
    this.live.setAttribute("role", "status");
    this.statusNode = element("span", "jl-status");
    this.figuresNode = element("div", "jl-figures");
    this.jobNode = element("div", "jl-job");
    this.jobNode.hidden = true;
    this.chart = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.chart.classList.add("jl-chart");
    this.chart.setAttribute("role", "img");
    this.chart.setAttribute("preserveAspectRatio", "none");
    this.chart.setAttribute("viewBox", `0 0 ${BUCKETS} 24`);
    this.chart.addEventListener("click", (event) => this.onChart(event));
    this.view = element("div", "jl-view");
    this.view.tabIndex = 0;
    this.view.setAttribute("role", "log");
    this.view.setAttribute("aria-live", "off");
    this.view.setAttribute("aria-label", this.t("log"));
    this.space = element("div", "jl-space");
    this.list = element("ol", "jl-list");
    this.space.append(this.list);
    this.view.append(this.space);
    this.newButton = button("", () => this.follow(true), "jl-new");
    this.newButton.hidden = true;
    const frame = element("div", "jl-frame", this.view, this.newButton);
    root.append(this.jobNode, this.doctorPanel(), this.figuresNode, this.chart, this.toolbar(), this.message, frame, this.live);
    root.classList.add("jl-ready");
    root.classList.toggle("jl-narrow", this.isNarrow);
    const plain = root.parentElement.querySelector(".jl-plain");
    if (plain) plain.remove();
    this.view.addEventListener("scroll", () => this.onScroll(), { passive: true });
    this.view.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    this.view.addEventListener("click", (event) => this.onClick(event));
    this.view.addEventListener("keydown", (event) => this.onViewKey(event));
    this.figuresNode.addEventListener("click", (event) => this.toLog(event));
    if (!this.isEmbedded) document.addEventListener("keydown", (event) => this.onKey(event));
    document.addEventListener("visibilitychange", () => this.onVisibility());
    new ResizeObserver(() => this.draw()).observe(this.view);
    new ResizeObserver(() => this.onRoom()).observe(root);
  }

  /** What the doctor says, for staff: asked when somebody opens it, and once where the job failed. */
  doctorPanel() {
    this.doctorNode = element("div", "jl-doctor-text");
    this.doctorNode.setAttribute("role", "status");
    this.doctor = element("details", "jl-doctor", element("summary", "", this.t("diagnosis")), this.doctorNode);
    this.doctor.hidden = true;
    this.doctor.addEventListener("toggle", () => this.doctor.open && this.diagnose());
    return this.doctor;
  }

  async diagnose() {
    if (this.isDiagnosing) return;
    this.isDiagnosing = true;
    this.doctorNode.replaceChildren(this.t("looking"));
    let parts;
    try {
      const { verdict } = await this.get("summary", { verdict: 1, level: "", logger: "", origin: "", text: "" });
      parts = verdict ? this.verdict(verdict) : [element("p", "", this.t("undiagnosed"))];
    } catch (error) {
      parts = [element("p", "", error.message)];
    }
    this.isDiagnosing = false;
    this.doctorNode.replaceChildren(...parts, button(this.t("again"), () => this.diagnose()));
  }

  verdict(found) {
    const text = (name, content) => {
      const made = element("span", name, visible(String(content)));
      made.dir = "auto";
      return made;
    };
    const sentence = (one) => [text("", one.sentence), ...(one.sure === "certain" || one.cause === "unknown" ? [] : [" ", element("span", "jl-badge", this.t(one.sure))])];
    const parts = [element("p", found.is_finding && found.cause !== "unknown" ? "jl-cause jl-finding" : "jl-cause", ...sentence(found))];
    if (found.advice) parts.push(element("p", "", element("strong", "", this.t("advice")), " ", text("", found.advice)));
    const list = (title, items) => {
      if (items.length) parts.push(element("h2", "", this.t(title)), element("ul", "", ...items));
    };
    const shows = ({ source, text: what, age }) => {
      const item = element("li", "", element("strong", "", visible(source)), " ", text("", what));
      if (typeof age === "number" && age >= 1) item.append(" ", element("span", "jl-age", this.t("age", { n: number(Math.round(age)) })));
      return item;
    };
    list("evidence", found.evidence.map(shows));
    list("others", found.others.map((one) => element("li", "", ...sentence(one), " ", text("jl-age", one.advice))));
    list("unasked", Object.entries(found.failures).map(([source, why]) => shows({ source, text: why })));
    parts.push(element("p", "jl-age", this.t("lookedat", { time: this.timeText(found.at) })));
    return parts;
  }

  toolbar() {
    const bar = (this.bar = element("form", "jl-filters"));
    bar.addEventListener("submit", (event) => {
      event.preventDefault();
      this.refilter();
    });
    bar.addEventListener("click", (event) => this.toLog(event));
    bar.addEventListener("keydown", (event) => event.key === "Escape" && this.focusLog());
    const labelled = (name, field) => element("label", "", this.t(name), " ", field);
    const select = (options, value, onChange) => {
      const made = element("select");
      for (const [key, text] of options) made.append(new Option(text, key, false, key === value));
      let isPointed = false;
      made.addEventListener("pointerdown", () => (isPointed = true));
      made.addEventListener("keydown", () => (isPointed = false));
      made.addEventListener("change", () => {
        onChange(made.value);
        if (isPointed) this.focusLog();
      });
      return made;
    };
    const field = (type, value, onChange) => {
      const made = element("input");
      made.type = type;
      made.value = value;
      made.maxLength = 500;
      made.spellcheck = false;
      made.addEventListener("change", () => onChange(made.value.trim()));
      return made;
    };
    this.levelField = select([["", this.t("all")], ...LEVELS.map((name) => [name, this.t("above", { level: name })])], this.filters.level, (value) => this.refilter({ level: value }));
    this.loggerField = field("text", this.filters.logger, (value) => this.refilter({ logger: value }));
    this.loggerField.addEventListener("keydown", (event) => event.key === "Enter" && this.focusLog()); // which is a change, too
    this.originField = select([["", this.t("all")]], "", (value) => this.refilter({ origin: value }));
    this.originLabel = labelled("process", this.originField);
    this.originLabel.hidden = true;
    this.searchField = field("search", this.search, (value) => this.find(value));
    this.searchField.addEventListener("keydown", (event) => {
      if (event.key === "Enter") {
        event.preventDefault();
        this.find(this.searchField.value.trim());
        this.goFound(event.shiftKey ? 1 : -1);
      }
    });
    const small = (text, label, action) => {
      const made = button(text, action);
      made.setAttribute("aria-label", label);
      made.title = label;
      return made;
    };
    this.onlyButton = button(this.t("only"), () => this.refilter({ text: this.filters.text ? "" : this.searchField.value.trim() }));
    this.onlyButton.setAttribute("aria-pressed", String(Boolean(this.filters.text)));
    if (this.filters.text && !this.search) this.searchField.value = this.search = this.filters.text;
    this.followButton = button(this.t("follow"), () => this.follow(!this.follows));
    this.followButton.setAttribute("aria-pressed", "true");
    const times = select([["local", this.t("local")], ["utc", "UTC"], ["relative", this.t("relative")]], this.time, (value) => {
      this.time = value;
      this.remember("time", value);
      this.redraw();
    });
    const files = element("span", "jl-files");
    for (const [format, text] of [["text", this.t("textfile")], ["jsonl", this.t("jsonfile")]]) {
      const link = element("a", "", text);
      link.addEventListener("click", () => (link.href = this.url("download", { format })));
      link.href = this.url("download", { format });
      files.append(link);
    }
    this.helpButton = button("?", () => this.help());
    this.helpButton.setAttribute("aria-label", this.t("keys"));
    this.foldButton = button("", () => this.unfold(!bar.classList.contains("jl-unfolded")), "jl-unfold");
    this.showFilters();
    bar.append(
      labelled("level", this.levelField),
      labelled("logger", this.loggerField),
      this.originLabel,
      element("span", "jl-group", labelled("search", this.searchField), small("↑", this.t("previous"), () => this.goFound(-1)), small("↓", this.t("next"), () => this.goFound(1)), this.onlyButton),
      element("span", "jl-group jl-kept", small("↑ " + this.t("error"), this.t("previouserror"), () => this.goError(-1)), small("↓ " + this.t("error"), this.t("nexterror"), () => this.goError(1))),
      this.followButton,
      labelled("times", times),
      files,
      this.helpButton,
      this.foldButton,
      this.statusNode,
    );
    this.followButton.classList.add("jl-kept");
    this.unfold(false);
    return bar;
  }

  status(name) {
    this.statusNode.dataset.state = name;
    this.showStatus();
  }

  /** Whether lines can come is the connection's state; whether any are to be expected, the job's. */
  showStatus() {
    let name = this.statusNode.dataset.state || "connecting";
    const { job = null, last = null } = this.figures || {};
    const newest = Math.max(last || 0, this.recent.at(-1)?.created || 0, (this.atEnd && this.lines.at(-1)?.created) || 0);
    const isOver = Boolean(job && (job.done || job.failed));
    const isSaidToRun = Boolean(job && (job.status || job.progress !== null || job.stages.length));
    const isOld = !isSaidToRun && newest > 0 && Date.now() / 1000 - newest > FRESH;
    const isCalm = (name === "live" || name === "polling") && (isOver || isOld);
    if (isCalm) name = isOver ? "finished" : "quiet";
    this.statusNode.toggleAttribute("data-calm", isCalm);
    if (this.statusNode.textContent !== this.t(name)) this.statusNode.textContent = this.t(name);
  }

  say(text, action, run) {
    this.message.hidden = !text;
    this.message.replaceChildren(text);
    if (text && action) this.message.append(" ", button(action, run));
  }

  /** Said to those who listen, and shown for a moment if it `isSeen`, but for what is `unseen`. */
  announce(text, isSeen = false, unseen = "") {
    this.live.replaceChildren(text, ...(unseen ? [" ", element("span", "jl-unseen", unseen)] : []));
    this.live.classList.toggle("jl-seen", isSeen);
    clearTimeout(this.announced);
    if (isSeen) this.announced = setTimeout(() => this.live.classList.remove("jl-seen"), 3000);
  }

  showFigures() {
    const { figures } = this;
    const parts = [element("span", "", this.count("line", figures.lines))];
    for (const [name, n] of Object.entries(figures.levels).reverse()) {
      const isKnown = name in NUMBERS;
      const filter = () => this.refilter({ level: isKnown && this.least() !== NUMBERS[name] ? name : "" });
      const chip = button(`${visible(name)} ${number(n)}`, filter, `jl-count jl-${KINDS[Math.max(0, LEVELS.indexOf(name))]}`);
      chip.dataset.key = name;
      if (isKnown) chip.setAttribute("aria-pressed", String(this.least() === NUMBERS[name]));
      parts.push(chip);
    }
    if (figures.first_error) {
      const line = figures.first_error;
      const first = button(`${this.t("firsterror")}: ${visible(line.message).slice(0, 120)}`, () => this.reveal(line), "jl-first");
      first.dataset.key = "first";
      parts.push(first);
    }
    const focused = this.figuresNode.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    this.figuresNode.replaceChildren(...parts);
    if (focused) parts.find((part) => part.dataset.key === focused)?.focus({ preventScroll: true });
    const known = [...this.originField.options].map((option) => option.value).join("\n");
    const origins = [...this.origins.keys()];
    if (known !== ["", ...origins].join("\n")) {
      this.originField.replaceChildren(new Option(this.t("all"), ""), ...origins.map((origin) => new Option(visible(origin), origin)));
      this.originField.value = this.filters.origin;
    }
    this.originLabel.hidden = origins.length < 2 && !this.filters.origin;
    this.doctor.hidden = figures.audience !== "staff";
    if (!this.doctor.hidden && !this.isEmbedded && figures.job && figures.job.failed && !this.wasDiagnosed) {
      this.wasDiagnosed = true;
      this.doctor.open = true;
    }
    this.showStatus();
    this.showJob(figures.job);
    this.showChart();
  }

  showJob(job) {
    this.jobNode.hidden = !job;
    if (!job) return;
    const parts = [];
    if (job.status) parts.push(element("strong", `jl-job-status${job.failed ? " jl-failed" : ""}`, visible(job.status)));
    const bar = (value, label) => {
      const made = element("progress");
      made.max = 1;
      made.value = value;
      made.setAttribute("aria-label", label);
      return made;
    };
    if (typeof job.progress === "number") parts.push(bar(job.progress, this.t("progress")), `${Math.round(job.progress * 100)} %`);
    for (const stage of job.stages || []) {
      const item = element("span", "jl-stage", visible(stage.name), " ");
      if (typeof stage.progress === "number") item.append(bar(stage.progress, visible(stage.name)), " ");
      if (stage.status) item.append(visible(stage.status));
      parts.push(item);
    }
    this.jobNode.replaceChildren(...parts);
  }

  showChart() {
    const { figures } = this;
    const parts = figures.histogram || [];
    this.chart.toggleAttribute("hidden", !parts.length || figures.last <= figures.first);
    const sums = parts.map((part) => {
      const sum = { error: 0, warning: 0, info: 0 };
      for (const [name, n] of Object.entries(part)) {
        const number = NUMBERS[name] ?? 20;
        sum[number >= 40 ? "error" : number >= 30 ? "warning" : "info"] += n;
      }
      return sum;
    });
    const most = Math.max(1, ...sums.map((sum) => sum.error + sum.warning + sum.info));
    const bars = [];
    sums.forEach((sum, n) => {
      let top = 24;
      for (const kind of ["error", "warning", "info"]) {
        if (!sum[kind]) continue;
        // A single error is seen beside a thousand other lines.
        const height = Math.max(kind === "info" ? 0.5 : 3, (Math.sqrt(sum[kind] / most)) * 20);
        const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
        top = Math.max(0, top - height);
        for (const [name, value] of Object.entries({ x: n + 0.1, y: top, width: 0.8, height })) bar.setAttribute(name, value);
        bar.classList.add("jl-bar-" + kind);
        bars.push(bar);
      }
    });
    this.chart.replaceChildren(...bars);
    this.chart.setAttribute("aria-label", this.t("chart", { first: this.timeText(figures.first), last: this.timeText(figures.last) }));
  }

  /** Whoever uses a pointer goes on in the log: its keys work at once. By keyboard one stays, to press again. */
  toLog(event) {
    const pressed = event.target.closest("button");
    if (event.detail && pressed && pressed !== this.foldButton && pressed !== this.helpButton) this.focusLog();
  }

  focusLog() {
    this.view.focus({ preventScroll: true });
  }

  onChart(event) {
    const box = this.chart.getBoundingClientRect();
    const at = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    this.reveal({ created: this.figures.first + at * (this.figures.last - this.figures.first), origin: "", seq: 0 });
  }

  // --- filters, search and address ---

  refilter(changes = {}) {
    Object.assign(this.filters, { level: this.levelField.value, logger: this.loggerField.value.trim(), origin: this.originField.value }, changes);
    this.levelField.value = LEVELS.includes(this.filters.level) ? this.filters.level : "";
    this.onlyButton.setAttribute("aria-pressed", String(Boolean(this.filters.text)));
    this.search = this.searchField.value.trim();
    this.current = null;
    this.address();
    this.start();
  }

  find(text) {
    if (text === this.search) return;
    this.search = text;
    this.current = null;
    this.address();
    if (this.filters.text) this.refilter({ text });
    else this.redraw();
  }

  address() {
    this.showFilters();
    if (this.isEmbedded) return;
    const here = new URL(location.href);
    for (const [name, value] of Object.entries({ ...this.filters, q: this.search })) {
      if (value) here.searchParams.set(name, value);
      else here.searchParams.delete(name);
    }
    const at = this.currentIndex();
    if (at >= 0) {
      here.searchParams.set("at", this.lines[at].created);
      here.hash = keyOf(this.lines[at]);
    } else {
      here.searchParams.delete("at");
      here.hash = "";
    }
    history.replaceState(null, "", here);
  }

  permalink(line) {
    const link = new URL(this.base);
    link.searchParams.set("at", line.created);
    link.hash = keyOf(line);
    return link;
  }

  /** The line that the page's address names. */
  linked() {
    const here = new URL(location.href);
    const created = Number(here.searchParams.get("at"));
    if (!here.searchParams.get("at") || !Number.isFinite(created)) return null;
    const [, origin, seq] = decodeURIComponent(here.hash).match(/^#(.*):(\d+)$/s) || [null, "", 0];
    return { created, origin, seq: Number(seq) };
  }

  help() {
    if (!this.helpBox) {
      this.helpBox = element("dialog", "jl-help", element("h2", "", this.t("keys")));
      const list = element("dl");
      for (const [key, name] of [["e / E", "key_error"], ["/", "key_search"], ["n / N", "key_found"], ["f", "key_follow"], ["j / k, ↑ ↓", "key_move"], ["Enter", "key_open"], ["Home / End", "key_ends"], ["?", "keys"]])
        list.append(element("dt", "", element("kbd", "", key)), element("dd", "", this.t(name)));
      const signs = element("dl", "jl-signs");
      const meanings = [
        [["coming"], "●", this.t("sign_live")],
        [["calm"], "●", this.t("sign_calm")],
        [["error"], "▌", this.t("above", { level: "ERROR" })],
        [["warning"], "▌", "WARNING"],
        [["origin-0", "origin-1", "origin-2"], "●", this.t("sign_process")],
      ];
      for (const [kinds, sign, text] of meanings) {
        const sample = element("dt", "", ...kinds.map((kind) => element("span", `jl-${kind}`, sign)));
        sample.setAttribute("aria-hidden", "true");
        signs.append(sample, element("dd", "", text));
      }
      this.helpBox.append(list, element("h2", "", this.t("signs")), signs, button(this.t("close"), () => this.helpBox.close()));
      this.root.append(this.helpBox);
    }
    if (this.helpBox.open) this.helpBox.close();
    else this.helpBox.showModal();
  }

  // --- what the reader does ---

  onScroll() {
    const scale = this.scale();
    if (this.exact !== undefined && Math.abs(this.exact / scale - this.view.scrollTop) >= 2) this.exact = undefined;
    const isAtBottom = this.atEnd && this.view.scrollTop + this.view.clientHeight >= this.view.scrollHeight - this.pitch / 2;
    if (isAtBottom !== this.follows && !this.isDrawing) {
      if (!isAtBottom || (this.current === null && !this.open.size)) {
        this.follows = isAtBottom;
        this.followButton.setAttribute("aria-pressed", String(isAtBottom));
      }
    }
    if (isAtBottom) this.unseen = 0;
    this.draw();
  }

  onWheel(event) {
    if (event.deltaY < 0 && this.follows) this.follow(false);
    if (this.scale() === 1 || event.ctrlKey) return;
    event.preventDefault();
    this.scrollTo(this.top() + event.deltaY * (event.deltaMode === 1 ? this.pitch : 1));
    this.draw();
  }

  onClick(event) {
    const row = event.target.closest(".jl-row");
    if (!row || !row.key || event.target.closest("button, a, .jl-details") || String(getSelection())) return;
    const line = this.lines.find((one) => keyOf(one) === row.key);
    if (line) this.toggle(line);
  }

  spoken(line) {
    return `${line.level} ${visible(line.message).slice(0, 300)}`;
  }

  step(by) {
    const at = this.currentIndex();
    const from = at >= 0 ? at : this.firstVisible() - this.above - (by > 0 ? 1 : 0);
    const line = this.lines[Math.min(this.lines.length - 1, Math.max(0, from + by))];
    if (!line) return;
    this.follow(false);
    this.current = keyOf(line);
    const top = this.offset(this.above + placeOf(this.lines, line));
    if (top < this.top() || top > this.top() + this.view.clientHeight - 2 * this.pitch) this.scrollTo(top - this.view.clientHeight / 2);
    this.redraw();
    this.address();
    this.announce(this.spoken(line));
  }

  onViewKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target !== this.view) return;
    this.moveKey(event);
  }

  /** The keys that move in the list, of which the event is used up. */
  moveKey(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1 };
    if (event.key in steps) this.step(steps[event.key]);
    else if (event.key === "Enter" || event.key === " ") {
      const at = this.currentIndex();
      if (at < 0) return;
      this.toggle(this.lines[at]);
    } else if (event.key === "End") this.follow(true);
    else if (event.key === "Home") this.toStart();
    else if (event.key === "Escape") {
      this.current = null;
      this.redraw();
      this.address();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  async toStart() {
    this.follow(false);
    if (!this.atStart) {
      const first = this.figures && this.figures.first !== null ? this.figures.first : 0;
      await this.reveal({ created: first, origin: "", seq: 0 }, 0);
    }
    this.scrollTo(0);
    this.draw();
  }

  onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
    if (event.target.closest && event.target.closest("input, select, textarea, dialog[open], [contenteditable]")) return;
    // Where nothing has the focus the log is what keys are for; letters mean nothing to a button either.
    if (event.target === document.body || event.key === "j" || event.key === "k") this.moveKey(event);
    if (!event.defaultPrevented) this.letterKey(event);
    // What comes next, Enter or an arrow, is for the line gone to, not for the button that had the focus.
    if (event.defaultPrevented && event.key !== "?" && document.activeElement === event.target && event.target !== document.body) this.focusLog();
  }

  letterKey(event) {
    const keys = {
      e: () => this.goError(1),
      E: () => this.goError(-1),
      n: () => this.goFound(1),
      N: () => this.goFound(-1),
      f: () => this.follow(!this.follows),
      "/": () => this.focusSearch(),
      "?": () => this.help(),
    };
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  }

  lacksRoom() {
    return this.root.clientWidth < NARROW * parseFloat(getComputedStyle(document.documentElement).fontSize);
  }

  /** The log became narrow or wide: rows have another height, what is read stays in sight. */
  onRoom() {
    if (this.lacksRoom() === this.isNarrow) return;
    const line = this.lines[this.firstVisible() - this.above];
    this.isNarrow = !this.isNarrow;
    this.root.classList.toggle("jl-narrow", this.isNarrow);
    this.pitch = this.isNarrow ? ROW_NARROW : ROW;
    this.redraw();
    if (line && !this.follows) this.scrollTo(this.offset(this.above + placeOf(this.lines, line)));
  }

  onVisibility() {
    clearTimeout(this.hidden);
    if (document.visibilityState === "hidden") {
      // A page in the background gives its connection back.
      this.hidden = setTimeout(() => {
        this.stop();
        this.status("paused");
      }, 20000);
    } else if (!this.source && this.cursor) this.listen();
  }
}

for (const root of document.querySelectorAll("[data-joblog]")) root.joblog = new JobLog(root);

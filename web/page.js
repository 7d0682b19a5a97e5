'use strict';
// The playground: reads the form, asks the server for one or two streams, and
// shows what comes: text, figures, and what each head of the KV cache holds.

const $ = (id) => document.getElementById(id);
const EXAMPLES = {
  short: 'To install the package,',
  list: 'There are three ways to configure the server:\n\n1.',
  long: 'The package manager keeps a list of all packages that are installed on the system, with their versions and ' +
    'the files that belong to them. Before it installs a new package, it reads the list of packages that this one ' +
    'depends on, and of those that it is in conflict with. If a package is missing, it is downloaded from the ' +
    'archive and installed first. If two packages are in conflict, the user is asked which one of them is to be ' +
    'removed. Configuration files that the administrator has changed are kept as they are. To remove the package,',
};
const shown = (value, digits = 0) =>
  value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits });
const percent = (share, digits = 0) => `${shown(100 * share, digits)} %`;

function bytes(count) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  for (; count >= 1024 && unit < units.length - 1; ++unit) count /= 1024;
  return `${shown(count, unit === 0 || count >= 100 ? 0 : 1)} ${units[unit]}`;
}

function element(tag, text, properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text }, properties);
}

// ---- The server

// What went wrong, for people.  `field`: the field of the form to look at.
class Trouble extends Error {
  constructor(title, text, { field = null, retrySeconds = null } = {}) {
    super(text);
    Object.assign(this, { title, field, retrySeconds });
  }
}

function headers() {
  const key = $('key').value.trim();
  return { 'Content-Type': 'application/json', ...(key && { Authorization: `Bearer ${key}` }) };
}

const lost = () => new Trouble('Lost the connection to the server',
  'What came before is kept. Check that the server still runs, then try again.', { retrySeconds: 0 });

async function fetchFrom(path, options = {}) {
  try {
    return await fetch(path, { cache: 'no-store', headers: headers(), ...options });
  } catch (error) {
    throw error.name === 'AbortError' ? error : lost();
  }
}

async function troubleOf(response) {
  let error = {};
  try { error = (await response.json()).error ?? {}; } catch { /* not JSON: the status says it */ }
  const text = error.message ?? `The server answered ${response.status}.`;
  const milliseconds = Number(response.headers.get('retry-after-ms'));
  const retrySeconds = milliseconds > 0 ? milliseconds / 1000 : Number(response.headers.get('retry-after')) || 1;
  switch (response.status) {
    case 401: return new Trouble($('key').value ? 'The server does not know this key' : 'The server asks for an API key', text, { field: 'key' });
    case 403: return new Trouble('This key may not do that', text, { field: 'key' });
    case 429: return new Trouble('This key is at its limit', text, { retrySeconds });
    case 503: return new Trouble('The server is busy or not ready', text, { retrySeconds });
    case 400: return new Trouble('The server refused the request', text, { field: error.param });
    default: return new Trouble(`The server answered ${response.status}`, text, { retrySeconds: response.status >= 500 ? 0 : null });
  }
}

async function* chunksOf(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  for (;;) {
    let part;
    try { part = await reader.read(); } catch (error) { throw error.name === 'AbortError' ? error : lost(); }
    if (part.done) throw lost();  // every stream ends with [DONE]
    const events = (rest + decoder.decode(part.value, { stream: true })).split('\n\n');
    rest = events.pop();
    for (const event of events) {
      if (!event.startsWith('data: ')) continue;  // a comment that keeps the connection alive
      const data = event.slice('data: '.length);
      if (data === '[DONE]') return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Trouble('The server ended the answer', chunk.error.message, { retrySeconds: 0 });
      yield chunk;
    }
  }
}

// The text of a token by its id; asked for once.
const tokenTexts = new Map();
function tokenText(id) {
  if (!tokenTexts.has(id)) {
    const asked = fetchFrom('/detokenize', { method: 'POST', body: JSON.stringify({ tokens: [id] }) })
      .then(async (response) => {
        if (!response.ok) throw await troubleOf(response);
        return (await response.json()).prompt;
      })
      .catch(() => { tokenTexts.delete(id); return `token ${id}`; });
    tokenTexts.set(id, asked);
  }
  return tokenTexts.get(id);
}
const visible = (text) => text.replaceAll('\n', '⏎').replaceAll('\t', '⇥').replaceAll(' ', '␣') || '∅';

// ---- What the heads hold

// A cell is 0 (not there yet), 1 (held), or 2 + the step at which it was
// evicted, where step 0 is the prompt.
class HeldPositions {
  constructor(capacity) {
    Object.assign(this, { capacity, prompt: 0, length: 0, layers: 0, heads: 0, step: 0, rows: new Map() });
  }
  row(layer, head) {
    const key = layer * 65536 + head;
    if (!this.rows.has(key)) {
      this.rows.set(key, { cells: new Uint16Array(this.capacity), held: 0, evicted: -1 });
      this.layers = Math.max(this.layers, layer + 1);
      this.heads = Math.max(this.heads, head + 1);
    }
    return this.rows.get(key);
  }
  add(trace) {
    for (const one of trace) {
      const row = this.row(one.layer, one.head);
      if (one.kept) this.addPrompt(row, one.kept);
      else this.addStep(row, one.pos, one.evicted ?? -1);
    }
  }
  addPrompt(row, kept) {
    row.cells.fill(2, 0, this.prompt);
    for (const position of kept) row.cells[position] = 1;
    row.held = kept.length;
    this.length = Math.max(this.length, this.prompt);
  }
  addStep(row, position, evicted) {
    if (position >= this.capacity) return;
    row.cells[position] = 1;
    ++row.held;
    this.length = Math.max(this.length, position + 1);
    this.step = position - this.prompt + 1;
    row.evicted = evicted;
    if (evicted < 0) return;
    row.cells[evicted] = 2 + this.step;
    --row.held;
  }
  heldByHead() { return [...this.rows.values()].map((row) => row.held); }
}

// What one row of a picture shows, by view: every head, the share of each
// layer's heads, or the heads of one layer.
function rowsOf(held, view) {
  const rows = [];
  const layers = [...Array(held.layers).keys()];
  const heads = [...Array(held.heads).keys()];
  if (view === 'layers') {
    for (const layer of layers) rows.push({ layer, heads, name: `layer ${layer}`, label: String(layer) });
    return rows;
  }
  for (const layer of view === 'heads' ? layers : [Number(view)]) {
    for (const head of heads) {
      const label = view === 'heads' ? (head === 0 ? String(layer) : '') : String(head);
      rows.push({ layer, heads: [head], name: `layer ${layer}, head ${head}`, label });
    }
  }
  return rows;
}

// ---- The picture of them

const colourCanvas = element('canvas', '', { width: 1, height: 1 }).getContext('2d', { willReadFrequently: true });
function colour(name) {
  colourCanvas.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  colourCanvas.fillRect(0, 0, 1, 1);
  return [...colourCanvas.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}
function palette() {
  return Object.fromEntries(['kept', 'now', 'gone', 'none', 'mark', 'card', 'muted'].map((name) => [name, colour(`--${name}`)]));
}
const css = (rgb) => `rgb(${rgb.join(' ')})`;

// A colour as a pixel of a picture, on machines that store the low byte first.
const ink = ([red, green, blue]) => (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0;
function inksOf(heads, { none, gone, kept }) {
  const between = (share) => gone.map((from, i) => Math.round(from + share * (kept[i] - from)));
  return { none: ink(none), kept: [...Array(heads + 1).keys()].map((count) => ink(between(count / heads))) };
}
function inkOf(cells, x, inks) {
  let kept = 0;
  for (const row of cells) if (row[x] === 1) ++kept;
  return kept === 0 && cells[0][x] === 0 ? inks.none : inks.kept[kept];
}

const GUTTER = 32, AXIS = 20, LAYER_GAP = 3;

class HeatStrip {
  constructor(canvas) {
    this.canvas = canvas;
    this.picture = document.createElement('canvas');
    this.rows = [];
  }
  // Draws `held`, with a cross at `place` {row, position} or null.
  draw(held, view, place) {
    this.held = held;
    this.rows = rowsOf(held, view);
    if (this.rows.length === 0 || this.canvas.clientWidth === 0) return;
    this.measure(view);
    const colours = palette();
    this.paintCells(held, colours);
    const context = this.canvas.getContext('2d');
    context.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    context.clearRect(0, 0, this.width + GUTTER, this.height + AXIS);
    this.paintRows(context, colours);
    this.paintAxis(context, colours);
    if (place) this.paintCross(context, colours, place);
  }
  measure(view) {
    const count = this.rows.length;
    this.rowHeight = Math.max(2, Math.min(14, Math.floor(240 / count)));
    this.rowName = /^\d/.test(view) ? 'head' : 'layer';
    this.gap = view === 'heads' ? LAYER_GAP : 0;
    this.width = this.canvas.clientWidth - GUTTER;
    this.height = this.top(count - 1) + this.rowHeight;
    this.scale = window.devicePixelRatio || 1;
    const [w, h] = [(this.width + GUTTER) * this.scale, (this.height + AXIS) * this.scale].map(Math.round);
    if (this.canvas.width !== w || this.canvas.height !== h) Object.assign(this.canvas, { width: w, height: h });
    this.canvas.style.height = `${this.height + AXIS}px`;
  }
  top(row) { return row * this.rowHeight + (this.rows[row].layer - this.rows[0].layer) * this.gap; }
  left(position) { return GUTTER + (position / this.held.capacity) * this.width; }

  // One pixel a cell.
  paintCells(held, colours) {
    const [w, h] = [held.capacity, this.rows.length];
    if (this.picture.width !== w || this.picture.height !== h) Object.assign(this.picture, { width: w, height: h });
    const context = this.picture.getContext('2d');
    const image = context.createImageData(w, h);
    const pixels = new Uint32Array(image.data.buffer);
    this.rows.forEach((row, y) => {
      const cells = row.heads.map((head) => held.row(row.layer, head).cells);
      const inks = inksOf(cells.length, colours);
      for (let x = 0; x < w; ++x) pixels[y * w + x] = inkOf(cells, x, inks);
    });
    context.putImageData(image, 0, 0);
  }
  paintRows(context, colours) {
    context.imageSmoothingEnabled = this.held.capacity > this.width * this.scale;
    context.font = '10px ' + getComputedStyle(document.body).fontFamily;
    context.textBaseline = 'top';
    context.textAlign = 'right';
    let lastLabel = -99;
    this.rows.forEach((row, y) => {
      const top = this.top(y);
      const high = this.rowHeight >= 5 ? this.rowHeight - 1 : this.rowHeight;
      context.drawImage(this.picture, 0, y, this.held.capacity, 1, GUTTER, top, this.width, high);
      this.paintNewest(context, colours, row, top, high);
      if (row.label === '' || top - lastLabel < 11) return;
      lastLabel = top;
      context.fillStyle = css(colours.muted);
      context.fillText(row.label, GUTTER - 6, top + (this.rowHeight < 10 ? 0 : 1));
    });
    context.fillStyle = css(colours.mark);
    context.fillRect(this.left(this.held.prompt) - 1, 0, 2, this.height);
  }
  // What the head evicted in the newest step; wide enough to be seen.
  paintNewest(context, colours, { layer, heads }, top, high) {
    const { evicted } = this.held.row(layer, heads[0]);
    if (heads.length > 1 || evicted < 0) return;
    context.fillStyle = css(colours.now);
    context.fillRect(this.left(evicted), top, Math.max(3, this.width / this.held.capacity), high);
  }
  paintAxis(context, colours) {
    context.fillStyle = css(colours.muted);
    context.textAlign = 'right';
    context.fillText(this.rowName, GUTTER - 6, this.height + 6);
    context.textAlign = 'left';
    const most = this.held.capacity;
    const step = [8, 16, 32, 64, 128, 256, 512, 1024, 4096].find((one) => (one / most) * this.width >= 44) ?? 16384;
    for (let position = 0; position < most; position += step) {
      const left = this.left(position);
      context.fillRect(left, this.height + 1, 1, 4);
      if (left + 28 < this.width + GUTTER) context.fillText(String(position), left + 3, this.height + 6);
    }
  }
  paintCross(context, colours, { row, position }) {
    if (row >= this.rows.length || position >= this.held.capacity) return;
    const cell = Math.max(2, this.width / this.held.capacity);
    context.strokeStyle = css(colours.mark);
    context.lineWidth = 1;
    context.strokeRect(this.left(position) - 0.5, -1, cell + 1, this.height + 2);
    context.lineWidth = 2;
    context.strokeRect(this.left(position) - 1, this.top(row) - 1, cell + 2, this.rowHeight + 1);
  }
  // The cell under a pointer, or null.
  placeAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left - GUTTER, event.clientY - box.top];
    if (!this.held || x < 0 || x >= this.width || y < 0) return null;
    const row = this.rows.findLastIndex((_, i) => this.top(i) <= y);
    return { row, position: Math.floor((x / this.width) * this.held.capacity) };
  }
}

// ---- One answer

class Pane {
  constructor(index) {
    this.root = $('pane-template').content.cloneNode(true).firstElementChild;
    this.root.dataset.pane = 'ab'[index];
    this.root.classList.toggle('is-b', index === 1);
    this.part('.badge').textContent = 'AB'[index];
    this.strip = new HeatStrip(this.part('canvas'));
    this.listen();
    this.clear();
  }
  part(selector) { return this.root.querySelector(selector); }
  figure(name, text) { this.part(`[data-figure=${name}]`).textContent = text; }

  clear() {
    Object.assign(this, { tokens: [], promptTokens: 0, first: 0, last: 0, held: null, usage: null });
    for (const name of ['ttft', 'rate', 'tokens', 'slots', 'evicted', 'mass', 'bytes']) this.figure(name, '–');
    for (const name of ['.echo', '.text', '.finish', '.readout']) this.part(name).textContent = '';
    this.part('.meter i').style.width = '0';
    for (const name of ['.notice', '.caret', 'figure']) this.part(name).hidden = true;
    this.part('.empty').hidden = false;
  }
  name(ask) {
    this.part('.title').textContent = ask.kv_policy === 'full' ? 'full cache' : `${ask.kv_policy}, budget ${ask.kv_budget ?? 'of the server'}`;
  }
  begin(ask) {
    this.clear();
    this.name(ask);
    this.maxTokens = ask.max_tokens;
    if (ask.prompt) this.part('.echo').textContent = ask.prompt.length > 200 ? `… ${ask.prompt.slice(-200).replace(/^\S*\s/, '')}` : ask.prompt;
    this.part('.empty').hidden = true;
    this.part('.caret').hidden = false;
    this.part('.answer').setAttribute('aria-busy', 'true');
    this.part('.finish').textContent = 'waiting for the first token …';
  }

  async run(ask, signal) {
    this.begin(ask);
    this.sent = performance.now();
    this.signal = signal;
    const isCurrent = () => this.signal === signal;  // no other run has begun
    try {
      const path = ask.messages ? '/v1/chat/completions' : '/v1/completions';
      const response = await fetchFrom(path, { method: 'POST', body: bodyOf(ask), signal });
      if (!response.ok) throw await troubleOf(response);
      for await (const chunk of chunksOf(response)) if (isCurrent()) this.take(chunk);
    } catch (error) {
      if (!isCurrent()) return;
      if (error.name !== 'AbortError') { this.fail(error); throw error; }
      this.part('.finish').textContent = 'stopped';
    } finally {
      if (isCurrent()) this.end();
    }
  }
  end() {
    this.part('.caret').hidden = true;
    this.part('.answer').setAttribute('aria-busy', 'false');
    redraw();
  }
  take(chunk) {
    const choice = chunk.choices[0];
    if (choice) this.takeChoice(choice);
    if (chunk.usage) this.takeUsage(chunk.usage);
    redraw();
  }
  takeChoice(choice) {
    if (choice.prompt_token_ids?.length) {
      this.tokens = [...choice.prompt_token_ids];
      this.promptTokens = this.tokens.length;
      this.held = new HeldPositions(this.promptTokens + Math.max(1, this.maxTokens - 1));
      this.held.prompt = this.promptTokens;
    }
    const came = choice.token_ids ?? [];
    if (came.length > 0) {
      this.last = performance.now();
      if (this.first === 0) { this.first = this.last; this.atFirst = came.length; }
      this.tokens.push(...came);
      this.part('.finish').textContent = 'streaming';
    }
    if (choice.kv_trace && this.held) this.held.add(choice.kv_trace);
    this.follows = true;
    this.part('.text').textContent += choice.text ?? choice.delta?.content ?? '';
    if (choice.finish_reason) {
      const reasons = { length: 'ended at max tokens', stop: 'ended by the model', abort: 'cut short' };
      this.part('.finish').textContent = reasons[choice.finish_reason] ?? choice.finish_reason;
    }
  }
  takeUsage(usage) {
    this.usage = usage;
    const kv = usage.kv;
    if (!kv) return;
    this.figure('slots', shown(kv.slots_held));
    this.figure('evicted', shown(kv.tokens_evicted));
    this.figure('mass', kv.attention_mass_kept === null ? 'not scored' : percent(kv.attention_mass_kept, 1));
    const share = kv.bytes_full ? kv.bytes / kv.bytes_full : 0;
    this.figure('bytes', `${bytes(kv.bytes)} of ${bytes(kv.bytes_full)} · ${percent(share)}`);
    this.part('.meter i').style.width = `${Math.min(100, 100 * share)}%`;
    this.root.dataset.usage = JSON.stringify(usage);
  }
  fail(error) {
    const notice = this.part('.notice');
    notice.replaceChildren(element('strong', error.title ?? 'Something went wrong'), element('span', error.message));
    notice.hidden = false;
    this.part('.finish').textContent = '';
    if (error.retrySeconds !== null && error.retrySeconds !== undefined) notice.append(retryButton(error.retrySeconds));
    const field = error.field && document.querySelector(`[data-pane="${this.root.dataset.pane}"] .${CSS.escape(error.field)}, #${CSS.escape(error.field)}`);
    if (!field) return;
    field.setAttribute('aria-invalid', 'true');
    field.focus();
  }

  draw(view, place) {
    const count = this.tokens.length - this.promptTokens;
    if (this.first > 0) {
      this.figure('ttft', `${shown(this.first - this.sent, this.first - this.sent < 10 ? 1 : 0)} ms`);
      this.figure('tokens', `${shown(this.promptTokens)} + ${shown(count)}`);
      const seconds = (this.last - this.first) / 1000;
      if (count > this.atFirst && seconds > 0) this.figure('rate', shown((count - this.atFirst) / seconds, 1));
    }
    const box = this.part('.answer');
    if (this.follows) box.scrollTop = box.scrollHeight;
    this.follows = false;
    if (!this.held || this.held.rows.size === 0) return;
    this.part('figure').hidden = false;
    if (!this.usage) this.showHeld(this.held.heldByHead());
    this.strip.draw(this.held, view, place);
    this.tell(place);
  }
  // The figures that the trace alone gives, until those of the usage come.
  showHeld(counts) {
    this.figure('slots', shown(Math.max(...counts)));
    this.figure('evicted', shown(this.held.length - Math.min(...counts)));
    this.figure('bytes', 'known at the end');
  }
  // Says what is at `place`; an empty line without one.
  tell(place) {
    const readout = this.part('.readout');
    const row = place && this.strip.rows[place.row];
    if (!row || place.position >= this.held.length) { this.told = null; readout.textContent = row ? 'not there yet' : 'Point at a position, or press Tab and use the arrow keys.'; return; }
    const told = `${place.position} of ${place.row}, ${this.held.step}`;
    if (this.told === told) return;
    this.told = told;
    const text = `${place.position < this.promptTokens ? 'prompt' : 'answer'}, position ${place.position}: ${this.fate(row, place.position)}`;
    tokenText(this.tokens[place.position]).then((token) => {
      if (this.told === told) readout.replaceChildren(element('b', visible(token)), ` ${text}`);
    });
  }
  fate(row, position) {
    const cells = row.heads.map((head) => this.held.row(row.layer, head).cells[position]);
    const kept = cells.filter((cell) => cell === 1).length;
    if (cells.length > 1) return `kept by ${kept} of ${cells.length} heads of ${row.name}`;
    if (kept) return `kept by ${row.name}`;
    return `evicted by ${row.name} ${cells[0] === 2 ? 'in prefill' : `at step ${cells[0] - 2}`}`;
  }

  listen() {
    const canvas = this.part('canvas');
    canvas.addEventListener('pointermove', (event) => pointAt(this.strip.placeAt(event)));
    canvas.addEventListener('pointerleave', () => pointAt(null));
    const speak = (how) => this.part('.readout').setAttribute('aria-live', how);
    canvas.addEventListener('focus', () => speak('polite'));
    canvas.addEventListener('blur', () => speak('off'));
    canvas.addEventListener('focus', () => { if (!state.place) pointAt({ row: 0, position: 0 }); });
    canvas.addEventListener('blur', () => pointAt(null));
    canvas.addEventListener('keydown', (event) => {
      const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], PageUp: [0, -16], PageDown: [0, 16],
        Home: [0, -1e9], End: [0, 1e9] }[event.key];
      if (!move || !this.held) return;
      event.preventDefault();
      const { row, position } = state.place ?? { row: 0, position: 0 };
      const within = (value, most) => Math.max(0, Math.min(most, value));
      pointAt({ row: within(row + move[0], this.strip.rows.length - 1), position: within(position + move[1], this.held.length - 1) });
    });
  }
}

function retryButton(seconds) {
  const button = element('button', 'Try again', { type: 'button' });
  const due = performance.now() + 1000 * seconds;
  button.addEventListener('click', () => $('form').requestSubmit());
  const tick = () => {
    const left = Math.ceil((due - performance.now()) / 1000);
    button.disabled = left > 0;
    button.textContent = left > 0 ? `Try again in ${left} s` : 'Try again';
    if (left > 0 && button.isConnected) setTimeout(tick, 250);
  };
  setTimeout(tick);
  return button;
}

// ---- The form

class Setting {
  constructor(index, policy, budget) {
    this.root = $('setting-template').content.cloneNode(true).firstElementChild;
    this.root.dataset.pane = 'ab'[index];
    this.root.classList.toggle('is-b', index === 1);
    this.root.querySelector('.badge').textContent = 'AB'[index];
    this.budget = this.root.querySelector('.budget-input');
    this.budget.id = `budget-${'ab'[index]}`;
    this.budget.classList.add('kv_budget');
    this.budget.value = budget;
    for (const radio of this.root.querySelectorAll('[type=radio]')) {
      radio.name = `policy-${'ab'[index]}`;
      radio.id = `${radio.name}-${radio.value}`;
      radio.checked = radio.value === policy;
    }
    this.root.addEventListener('change', () => this.update());
    this.update();
  }
  policy() { return this.root.querySelector(':checked').value; }
  update() { this.budget.disabled = this.policy() === 'full'; }
  fields() {
    const budget = this.budget.value.trim();
    if (this.policy() === 'full' || budget === '') return { kv_policy: this.policy() };
    return { kv_policy: this.policy(), kv_budget: /^\d+$/.test(budget) ? Number(budget) : budget };
  }
}

const settings = [new Setting(0, 'h2o', '20%'), new Setting(1, 'full', '20%')];
const panes = [new Pane(0), new Pane(1)];
const state = { place: null, running: null, dirty: false };

// A number of the form, or Trouble.
function number(id, test, rule) {
  const text = $(id).value.trim();
  const value = Number(text);
  if (text !== '' && Number.isFinite(value) && test(value)) return value;
  throw new Trouble('The form needs a change', `${id} is “${text}”; it must be ${rule}.`, { field: id });
}

function seed() {
  const text = $('seed').value.trim();
  if (text === '') return String(crypto.getRandomValues(new Uint32Array(1))[0]);
  if (/^-?\d{1,19}$/.test(text)) return text;
  throw new Trouble('The form needs a change', `seed is “${text}”; it must be a whole number.`, { field: 'seed' });
}

// The fields of each request.  The seed is the same for all.
function asks() {
  const prompt = $('prompt').value;
  if (prompt.trim() === '') throw new Trouble('There is no prompt', 'Type one, or take an example below the field.', { field: 'prompt' });
  const isChat = $('form').elements.mode.value === 'chat';
  const common = {
    ...(isChat ? { messages: [{ role: 'user', content: prompt }] } : { prompt }),
    max_tokens: number('max_tokens', (n) => Number.isInteger(n) && n > 0, 'a whole number above 0'),
    temperature: number('temperature', (n) => n >= 0, 'a number, 0 or more'),
    top_p: number('top_p', (n) => n > 0 && n <= 1, 'above 0 and at most 1'),
    seed: seed(),
    stream: true, stream_options: { include_usage: true }, return_token_ids: true,
    ...($('trace').checked && { kv_trace: true }),
  };
  return shownSettings().map((setting) => ({ ...common, ...setting.fields() }));
}
const shownSettings = () => ($('compare').checked ? settings : settings.slice(0, 1));

// Seeds are 64 bits wide, more than numbers of JavaScript hold.
function bodyOf({ seed: digits, ...ask }) { return `${JSON.stringify(ask).slice(0, -1)},"seed":${digits}}`; }

function curlOf(ask) {
  const path = ask.messages ? '/v1/chat/completions' : '/v1/completions';
  const key = $('key').value ? " \\\n  -H \"Authorization: Bearer $H2OSERVE_API_KEY\"" : '';
  return `curl -N ${location.origin}${path} -H 'Content-Type: application/json'${key} \\\n  -d '${bodyOf(ask).replaceAll("'", "'\\''")}'`;
}
function updateCurl() {
  let text;
  try { text = asks().map(curlOf).join('\n\n'); } catch (error) { text = error.message; }
  $('curl').textContent = text;
}

// ---- What runs, and what is shown of it

async function run() {
  state.running?.abort();
  for (const field of document.querySelectorAll('[aria-invalid]')) field.removeAttribute('aria-invalid');
  let all;
  try { all = asks(); } catch (error) { panes[0].clear(); panes[0].fail(error); say(error.message); return; }
  const controller = new AbortController();
  state.running = controller;
  setRunning(true);
  say(all.length > 1 ? 'Both settings are running …' : 'Running …');
  const began = performance.now();
  const results = await Promise.allSettled(all.map((ask, i) => panes[i].run(ask, controller.signal)));
  if (state.running !== controller) return;  // another run has begun
  state.running = null;
  setRunning(false);
  const failed = results.find((result) => result.status === 'rejected');
  const seconds = shown((performance.now() - began) / 1000, 1);
  if (failed) say(failed.reason.title ?? 'Something went wrong');
  else say(controller.signal.aborted ? 'Stopped.' : `Done in ${seconds} s with seed ${all[0].seed}.`);
}
function stop() { state.running?.abort(); }
function say(text) { $('status').textContent = text; }
function setRunning(running) {
  $('stop').disabled = !running;
  document.body.dataset.running = running;
  if (!running && document.activeElement === $('stop')) $('run').focus();
}

function pointAt(place) { state.place = place; redraw(); }
function redraw() {
  if (state.dirty) return;
  state.dirty = true;
  requestAnimationFrame(() => {
    state.dirty = false;
    updateViews();
    for (const pane of panes) pane.draw($('view').value, state.place);
  });
}
function updateViews() {
  const held = panes.map((pane) => pane.held).find((one) => one?.rows.size > 0);
  $('view-label').hidden = !held;
  const shape = held ? `${held.layers} x ${held.heads}` : '';
  if (!held || $('view').dataset.shape === shape) return;
  $('view').dataset.shape = shape;
  const options = [...Array(held.layers).keys()].map((layer) => [String(layer), `layer ${layer}`]);
  options.unshift(['layers', 'all layers, share of heads']);
  if (held.layers * held.heads <= 120) options.unshift(['heads', 'every head, by layer']);
  $('view').replaceChildren(...options.map(([value, text]) => element('option', text, { value })));
}

function updateCompare() {
  const two = $('compare').checked;
  $('settings').replaceChildren(...shownSettings().map((setting) => setting.root));
  $('panes').replaceChildren(...panes.slice(0, two ? 2 : 1).map((pane) => pane.root));
  $('panes').classList.toggle('two', two);
  document.body.classList.toggle('single', !two);
  panes.forEach((pane, i) => { if (pane.tokens.length === 0) pane.name(settings[i].fields()); });
  redraw();
}

// ---- Whether the server is there

function showServer(state_, text) {
  $('dot').className = `dot ${state_}`;
  $('model').textContent = text;
}
async function askModel() {
  const response = await fetchFrom('/v1/models');
  if (response.status === 401) { showServer('busy', 'An API key is needed'); $('key').setAttribute('aria-invalid', String($('key').value !== '')); return false; }
  $('key').removeAttribute('aria-invalid');
  if (!response.ok) return false;
  const model = (await response.json()).data[0];
  state.model = `${model.id} · ${shown(model.max_model_len)} positions`;
  return true;
}
async function askServer() {
  try {
    if (!state.model && !(await askModel())) return;
    const response = await fetchFrom('/readyz');
    const reason = response.ok ? '' : (await response.json()).reason;
    showServer(response.ok ? 'ready' : 'busy', response.ok ? `${state.model} · ready` : `${state.model} · not ready: ${reason}`);
  } catch {
    showServer('lost', 'No connection to the server');
  }
}

// ---- The start

$('key').value = sessionStorage.getItem('h2oserve-key') ?? '';
$('key').addEventListener('input', () => {
  if ($('key').value) sessionStorage.setItem('h2oserve-key', $('key').value);
  else sessionStorage.removeItem('h2oserve-key');
});
$('key').addEventListener('change', () => {
  state.model = null;
  askServer();
});
$('form').addEventListener('submit', (event) => { event.preventDefault(); run(); });
$('form').addEventListener('input', () => {
  updateCurl();
  panes.forEach((pane, i) => { if (pane.tokens.length === 0) pane.name(settings[i].fields()); });
});
$('stop').addEventListener('click', stop);
$('compare').addEventListener('change', updateCompare);
$('view').addEventListener('change', redraw);
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') stop();
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); }
});
for (const button of document.querySelectorAll('[data-example]')) {
  button.addEventListener('click', () => { $('prompt').value = EXAMPLES[button.dataset.example]; $('prompt').focus(); updateCurl(); });
}
window.addEventListener('resize', redraw);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
setInterval(() => { if (!document.hidden) askServer(); }, 5000);
updateCompare();
updateCurl();
askServer();

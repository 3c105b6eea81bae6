/** The example page: picks a model, a picture and a device, runs, shows outputs and times. */
import { compile, devices, Session, Tensor, TuttiError, type ValueInfo } from 'tutti/web';
import { type Frame, frameOf, type Pixels, pictureOfTensor, scales, tensorOfPicture } from './picture.js';

/** Pictures are scaled down to this where the model takes any size. */
const largestSide = 512;
const shownValues = 10;

function element<T extends HTMLElement>(id: string, type: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`the page has no ${type.name} #${id}`);
  return found;
}

const form = element('form', HTMLFormElement);
const modelFile = element('model', HTMLInputElement);
const pictureFile = element('picture', HTMLInputElement);
const scaleChoice = element('scale', HTMLSelectElement);
const deviceChoice = element('device', HTMLSelectElement);
const runCount = element('runs', HTMLInputElement);
const runButton = element('run', HTMLButtonElement);
const status = element('status', HTMLElement);
const error = element('error', HTMLElement);
const result = element('result', HTMLElement);
const facts = element('facts', HTMLElement);
const pictures = element('pictures', HTMLElement);
const inputCanvas = element('input', HTMLCanvasElement);
const tables = element('tables', HTMLElement);

/** The session of the last run: asked for again, it is there. */
let current: { readonly source: string | File; readonly device: string; readonly session: Session } | undefined;

await start();

async function start(): Promise<void> {
  for (const [key, { label }] of Object.entries(scales)) scaleChoice.add(new Option(label, key));
  modelFile.addEventListener('change', () => {
    if (modelFile.files?.length) choose('file');
  });
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    void guarded(run);
  });
  await guarded(async () => {
    const { devices: found, missing } = await devices();
    if (found.length === 0) throw new Error(`No device: ${missing.map(({ reason }) => reason).join('; ')}.`);
    deviceChoice.replaceChildren(
      ...found.map(({ id, name, software }) => new Option(`${name}${software ? ' (software)' : ''}`, id)),
    );
    deviceChoice.disabled = false;
    runButton.disabled = false;
    status.textContent = 'Ready.';
  });
}

async function guarded(work: () => Promise<void>): Promise<void> {
  error.hidden = true;
  try {
    await work();
  } catch (cause) {
    error.textContent = cause instanceof Error ? cause.message : String(cause);
    error.hidden = false;
    result.hidden = true;
    status.textContent = 'Failed.';
    if (!(cause instanceof TuttiError)) console.error(cause);
  }
}

function choose(source: 'demo' | 'file'): void {
  const radio = form.elements.namedItem('source');
  if (radio instanceof RadioNodeList) radio.value = source;
}

function chosenModel(): string | File {
  if (new FormData(form).get('source') === 'demo') return new URL('./sketch.onnx', import.meta.url).href;
  const file = modelFile.files?.[0];
  if (file === undefined) throw new Error('Choose an ONNX or .tutti file first.');
  return file;
}

async function run(): Promise<void> {
  runButton.disabled = true;
  try {
    const source = chosenModel();
    say('Compiling …');
    const begin = performance.now();
    const session = await sessionFor(source, deviceChoice.value);
    const { info, frame } = pictureInput(session.model);
    const pixels = await pictureFor(frame);
    const { data, dims } = tensorOfPicture(pixels, frame, info.type === 'uint8' ? scales.bytes : chosenScale());
    const feeds = { [info.name]: Tensor.from(info.type === 'float32' ? data : Array.from(data), dims, info.type) };
    const compiled = performance.now();
    let outputs = await session.run(feeds);
    const first = performance.now();
    const times: number[] = [];
    for (let i = 0; i < runCount.valueAsNumber; i++) {
      say(`Run ${i + 1} of ${runCount.value} …`);
      const since = performance.now();
      outputs = await session.run(feeds);
      times.push(performance.now() - since);
    }
    showFacts(session, { prepare: compiled - begin, first: first - compiled, times });
    showInput(pixels);
    showOutputs(outputs);
    result.hidden = false;
    say('Done.');
  } finally {
    runButton.disabled = false;
  }
}

const say = (text: string): void => {
  status.textContent = text;
};

async function sessionFor(source: string | File, device: string): Promise<Session> {
  if (current !== undefined && current.source === source && current.device === device) return current.session;
  await current?.session.close();
  current = undefined;
  const session = await Session.create(await compile(source), { device });
  current = { source, device, session };
  return session;
}

function pictureInput(model: Session['model']): { readonly info: ValueInfo; readonly frame: Frame } {
  const [info, ...others] = model.inputs;
  const frame = info === undefined || others.length > 0 ? undefined : frameOf(info);
  if (frame !== undefined) return { info, frame };
  const inputs = model.inputs.map(({ name, type, shape }) => `${name}: ${type} [${shape.join(', ')}]`);
  throw new Error(
    `This page gives a model one picture (batch 1, 1 or 3 channels); this one takes ${inputs.join('; ')}.`,
  );
}

const chosenScale = () => scales[scaleChoice.value] ?? scales.unit;

// --- pictures ------------------------------------------------------------------------------------------------------

async function pictureFor({ width, height }: Frame): Promise<Pixels> {
  const file = pictureFile.files?.[0];
  const image = file === undefined ? drawSample() : await decode(file);
  const scale = Math.min(1, largestSide / Math.max(image.width, image.height));
  const canvas = new OffscreenCanvas(
    width ?? Math.max(1, Math.round(image.width * scale)),
    height ?? Math.max(1, Math.round(image.height * scale)),
  );
  const context = contextOf(canvas);
  context.imageSmoothingQuality = 'high';
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

async function decode(file: File): Promise<ImageBitmap> {
  try {
    return await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name} is not a picture that this browser can read.`);
  }
}

/** Hills before an evening sky. */
function drawSample(): OffscreenCanvas {
  const [width, height] = [448, 320];
  const canvas = new OffscreenCanvas(width, height);
  const context = contextOf(canvas);
  const sky = context.createLinearGradient(0, 0, 0, height);
  sky.addColorStop(0, '#3b6ea5');
  sky.addColorStop(0.6, '#f2c48d');
  context.fillStyle = sky;
  context.fillRect(0, 0, width, height);
  context.fillStyle = '#fff1c4';
  context.beginPath();
  context.arc(330, 105, 32, 0, 2 * Math.PI);
  context.fill();
  for (const [layer, colour] of ['#7d8fb3', '#56708c', '#365a55', '#213b30'].entries()) {
    context.fillStyle = colour;
    context.beginPath();
    context.moveTo(0, height);
    for (let x = 0; x <= width; x += 2) {
      const waves = Math.sin(x / (70 - 11 * layer) + 2.1 * layer) + 0.4 * Math.sin(x / 17 + layer);
      context.lineTo(x, 160 + 38 * layer + 22 * waves);
    }
    context.lineTo(width, height);
    context.fill();
  }
  context.fillStyle = '#c9a27e';
  context.fillRect(96, 196, 64, 52);
  context.fillStyle = '#8a3b2e';
  context.beginPath();
  context.moveTo(86, 198);
  context.lineTo(128, 164);
  context.lineTo(170, 198);
  context.fill();
  context.fillStyle = '#39434d';
  context.fillRect(108, 210, 16, 16);
  context.fillRect(134, 214, 14, 34);
  return canvas;
}

function contextOf(canvas: OffscreenCanvas): OffscreenCanvasRenderingContext2D {
  const context = canvas.getContext('2d');
  if (context === null) throw new Error('This browser cannot draw pictures.');
  return context;
}

function paint(canvas: HTMLCanvasElement, { width, height, data }: Pixels): void {
  canvas.width = width;
  canvas.height = height;
  canvas.getContext('2d')?.putImageData(new ImageData(new Uint8ClampedArray(data), width, height), 0, 0);
}

// --- results -------------------------------------------------------------------------------------------------------

interface Times {
  readonly prepare: number;
  readonly first: number;
  readonly times: readonly number[];
}

const milliseconds = (value: number): string => `${value.toFixed(value < 10 ? 2 : 0)} ms`;

function showFacts(session: Session, { prepare, first, times }: Times): void {
  const sorted = [...times].sort((a, b) => a - b);
  const kernels = session.report().specialisations.at(-1)?.plan.kernels;
  const rows: readonly (readonly [string, string])[] = [
    ['Model', session.model.name],
    ['Device', session.device.name],
    ['Prepared in', milliseconds(prepare)],
    ['First run', milliseconds(first)],
    [`Median of ${times.length}`, milliseconds(sorted[sorted.length >> 1])],
    ['Kernels', String(kernels ?? '–')],
    ['Device memory', `${(session.memory.deviceBytes / 2 ** 20).toFixed(1)} MiB`],
  ];
  facts.replaceChildren(
    ...rows.map(([name, value]) => {
      const pair = document.createElement('div');
      pair.append(text('dt', name), text('dd', value));
      return pair;
    }),
  );
}

function text(tag: string, content: string): HTMLElement {
  const node = document.createElement(tag);
  node.textContent = content;
  return node;
}

function showInput(pixels: Pixels): void {
  paint(inputCanvas, pixels);
  const caption = inputCanvas.nextElementSibling;
  if (caption !== null) caption.textContent = `Input, ${pixels.width} × ${pixels.height}`;
}

function showOutputs(outputs: Readonly<Record<string, Tensor>>): void {
  for (const old of pictures.querySelectorAll('figure.output')) old.remove();
  tables.replaceChildren();
  for (const [name, { dims, data, type }] of Object.entries(outputs)) {
    const picture = type === 'float32' || type === 'uint8' ? pictureOfTensor(dims, data) : undefined;
    if (picture === undefined) tables.append(tableOf(name, dims, data));
    else pictures.append(figureOf(name, picture));
  }
}

function figureOf(name: string, picture: NonNullable<ReturnType<typeof pictureOfTensor>>): HTMLElement {
  const figure = document.createElement('figure');
  figure.className = 'output';
  const canvas = document.createElement('canvas');
  canvas.setAttribute('role', 'img');
  canvas.setAttribute('aria-label', `Output ${name}`);
  paint(canvas, picture);
  const [low, high] = picture.range.map((value) => Number(value.toPrecision(4)));
  figure.append(canvas, text('figcaption', `${name}, ${picture.width} × ${picture.height}, ${low} to ${high}`));
  return figure;
}

function tableOf(name: string, dims: readonly number[], data: Tensor['data']): HTMLElement {
  const table = document.createElement('table');
  const largest = Array.from(data as ArrayLike<unknown>, (value, index) => ({ index, value: Number(value) }))
    .sort((a, b) => b.value - a.value)
    .slice(0, shownValues);
  table.append(text('caption', `${name} [${dims.join(', ')}], largest values`));
  const head = table.createTHead().insertRow();
  for (const title of ['Index', 'Value']) {
    const cell = text('th', title);
    cell.setAttribute('scope', 'col');
    head.append(cell);
  }
  const body = table.createTBody();
  for (const { index, value } of largest) {
    const row = body.insertRow();
    row.append(text('td', String(index)), text('td', String(Number(value.toPrecision(6)))));
  }
  return table;
}

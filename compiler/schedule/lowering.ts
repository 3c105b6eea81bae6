/**
 * Demand-driven lowering: the value of a tensor at an index.
 *
 * A schedule asks for elements of the group's results at computed indices; this class follows the nodes back to
 * memory. Views only change the index, elementwise ops combine their operands' values, everything else is memory.
 * An index may mention the *lane* (`Affine.lane`): then the answer is a vector of `lanes` consecutive elements, or a
 * scalar where the value does not depend on the lane.
 */
import { isHalf, isMiniFloat, isPacked } from '../dtype.js';
import { TuttiError } from '../error.js';
import { elementsOf, firstElement } from '../graph/ops/reference/data.js';
import { elementScalar } from '../graph/ops/scalar.js';
import type { Node, Value } from '../graph/types.js';
import { KernelBuilder } from '../kernel/builder.js';
import type { Target } from '../kernel/target.js';
import type { KBuffer, KernelFunction, KScalar, KValue, Lanes } from '../kernel/types.js';
import { type HostTensor, sizeOf } from '../tensor.js';
import { Affine, linearize } from './affine.js';
import { computedWide, elementOf } from './elements.js';
import { decoded, encoded, loadPacked, memoryLength, memoryScalar, packBytes } from './encoding.js';
import { type Group, type Home, type LoopVariable, memoryOf, nameOf, sourcesOf } from './group.js';
import type { Binding, DerivedConstant } from './lowered.js';
import { pickLanes, transposed } from './shuffle.js';
import { type Index, range, shapeOf } from './tensors.js';

/** Name of the scalar parameter that is the number of the iteration; `depthOf` reads it back. */
const iterationName = ({ depth }: LoopVariable): string => `iteration${depth}`;
/** Which loop around it a scalar parameter of a scheduled kernel belongs to, 0 for the outermost. */
export const depthOf = ({ name }: KScalar): number => Number(name.slice('iteration'.length));

/** A square of the result: `lanes` rows of as many elements. */
export interface Tile {
  /** Where the rows begin, in the dim that they count. */
  readonly start: KValue;
  /** The row that is computed now. */
  readonly row: number;
  readonly lanes: Lanes;
}

/** Elements further apart than this are loaded one by one. */
export const mostSteps = 8;

export class Lowering {
  readonly b = new KernelBuilder();
  readonly group: Group;
  readonly target: Target;
  readonly #buffers = new Map<number, KBuffer>();
  readonly #iterations = new Map<LoopVariable, Affine>();
  readonly #bindings: Binding[] = [];
  readonly #producers = new Map<number, Node>();
  readonly #overrides = new Map<number, (index: Index, lanes: Lanes) => KValue>();
  readonly #sources = new Map<number, Value>();
  #memos: Map<string, KValue>[] = [new Map()];
  /** Every address that was loaded or stored, for schedules that judge a form by them. */
  readonly addresses: Affine[] = [];
  /** Set while a schedule computes a tile, row by row. */
  tile: Tile | undefined;

  /**
   * @param derived Constants that are bound in a form of their own instead of the value with that id.
   * @param words Values of bytes that the schedule reads by itself, as u32.
   */
  constructor(
    group: Group,
    target: Target,
    derived: ReadonlyMap<number, DerivedConstant> = new Map(),
    words: ReadonlySet<Value> = new Set(),
  ) {
    this.group = group;
    this.target = target;
    for (const node of group.nodes) for (const output of node.outputs) this.#producers.set(output.id, node);
    // Several slices of one array are one parameter.
    const shared = new Map<number, KBuffer>();
    for (const value of group.reads) {
      const memory = memoryOf(group, value);
      if (!memory) continue;
      const known = shared.get(memory.id);
      if (known) this.#buffers.set(value.id, known);
      else shared.set(memory.id, this.#declare(value, derived.get(value.id) ?? memory, 'read', words.has(value)));
    }
    for (const value of group.writes) this.#declare(value, memoryOf(group, value) as Value, 'write');
    if (group.loop) this.#declareIterations(group, group.loop);
  }

  /** What the kernel's buffers are bound to, in order. */
  get bindings(): readonly Binding[] {
    return this.#bindings;
  }

  #declare(value: Value, binding: Value | DerivedConstant, access: 'read' | 'write', asWords = false): KBuffer {
    const { dtype } = 'kind' in binding ? binding.data : value.type;
    const length = sizeOf('kind' in binding ? binding.data.shape : shapeOf(binding));
    const prefix = access === 'read' ? 'in' : 'out';
    const name = `${prefix}${this.#bindings.length}`;
    const buffer = asWords
      ? this.b.buffer(name, 'u32', length / 4, access)
      : this.b.buffer(name, memoryScalar(dtype), memoryLength(dtype, length), access);
    this.#buffers.set(value.id, buffer);
    this.#bindings.push(binding);
    return buffer;
  }

  /** At the top of the kernel, where everything can see them. */
  #declareIterations(group: Group, { homes, numbers }: NonNullable<Group['loop']>): void {
    const variables = [...group.reads, ...group.writes].flatMap(({ id }) => {
      const number = numbers.get(id);
      return [...(homes.get(id)?.terms ?? []).map(({ variable }) => variable), ...(number ? [number] : [])];
    });
    for (const variable of [...new Set(variables)].sort((p, q) => p.depth - q.depth)) {
      const number = this.b.scalar(iterationName(variable), 'i32', { min: 0, max: variable.trips - 1 });
      this.#iterations.set(variable, Affine.of(number, this.b));
    }
  }

  /** Row-major address of an element in the memory that holds the value. */
  #address(value: Value, index: Index): Affine {
    const address = linearize(index, shapeOf(value));
    const home = this.group.loop?.homes.get(value.id);
    return home ? address.add(this.#offset(home)) : address;
  }

  #offset({ terms, constant }: Home): Affine {
    return terms.reduce(
      (sum, { variable, stride }) => sum.add((this.#iterations.get(variable) as Affine).scale(stride)),
      Affine.constant(constant),
    );
  }

  /**
   * From now on elements of `value` come from `element` (an anchor's accumulators, a reduction's result), which may be in
   * the type of the accumulators.
   */
  define(value: Value, element: (index: Index, lanes: Lanes) => KValue): void {
    this.#overrides.set(value.id, element);
    this.#memos = this.#memos.map(() => new Map());
  }

  /** From now on elements of `value` are those of `source`, in the type of that. */
  see(value: Value, source: Value): void {
    this.#sources.set(value.id, source);
  }

  /** The element of `value` at `index`: a scalar, or a vector of `lanes` if it depends on the lane. */
  readonly value = (value: Value, index: Index, lanes: Lanes): KValue => {
    const source = this.#sources.get(value.id);
    if (source) return this.value(source, index, lanes);
    return this.#once('', value, index, lanes, () =>
      this.#isRoundedLate(value)
        ? this.b.convert(this.unrounded(value, index, lanes), elementScalar(value.type.dtype))
        : this.#compute(value, index, lanes, this.value),
    );
  };

  /**
   * The same as arithmetic takes it: a float of 16 bits in f32, not yet rounded where this kernel computes it, unless
   * the numerics want each op rounded.
   */
  readonly unrounded = (value: Value, index: Index, lanes: Lanes): KValue => {
    if (!isHalf(value.type.dtype)) return this.value(value, index, lanes);
    return this.#once('unrounded:', value, index, lanes, () => {
      const element = this.target.roundsEachOp
        ? this.value(value, index, lanes)
        : this.#compute(value, index, lanes, this.unrounded);
      return this.b.convert(element, 'f32');
    });
  };

  #once(how: string, value: Value, index: Index, lanes: Lanes, compute: () => KValue): KValue {
    const key = `${how}${value.id}:${lanes}:${index.map((i) => i.key).join(';')}`;
    const known = this.#known(key);
    if (known) return known;
    const result = compute();
    this.#remember(key, result);
    return result;
  }

  /** Whether rounding is all that is left to do with the element that `unrounded` gives. */
  #isRoundedLate({ id, type }: Value): boolean {
    if (!isHalf(type.dtype) || this.target.roundsEachOp) return false;
    if (this.#overrides.has(id)) return true;
    const node = this.#producers.get(id);
    return node !== undefined && computedWide(this, node);
  }

  #known(key: string): KValue | undefined {
    for (const memo of this.#memos) {
      const known = memo.get(key);
      if (known) return known;
    }
    return undefined;
  }

  #remember(key: string, value: KValue): void {
    this.#memos[this.#memos.length - 1].set(key, value);
  }

  /** Like `value`, always a vector of exactly `lanes`. */
  vector(value: Value, index: Index, lanes: Lanes): KValue {
    return this.widen(this.value(value, index, lanes), lanes);
  }

  widen(value: KValue, lanes: Lanes): KValue {
    return value.type.lanes === lanes ? value : this.b.splat(value, lanes);
  }

  /**
   * Stores `element` (scalar or `lanes` wide, lane-contiguous) into a written value; with an element of the result
   * go those of the side results.
   */
  store(value: Value, index: Index, element: KValue, lanes: Lanes): void {
    this.#store(value, index, element, lanes);
    if (value.id !== this.group.writes[0].id) return;
    for (const side of this.group.sides) this.#store(side, index, this.value(side, index, lanes), lanes);
  }

  #store(value: Value, index: Index, element: KValue, lanes: Lanes): void {
    const buffer = this.#buffers.get(value.id) as KBuffer;
    const address = this.#address(value, index);
    this.addresses.push(address);
    if (isPacked(value.type.dtype)) throw new Error(`${value.name} is packed: it is stored by whole bytes`);
    const stored = encoded(this.b, value.type.dtype, element);
    const coefficient = address.laneCoefficient();
    if (lanes === 1 || coefficient === 1) {
      const base = address.atLane(0);
      const wide = this.widen(stored, lanes);
      this.b.store(buffer, base.emit(this.b), wide, lanes > 1 && base.divisor() % lanes === 0);
      return;
    }
    for (let lane = 0; lane < lanes; lane++) {
      this.b.store(buffer, address.atLane(lane).emit(this.b), this.b.extract(this.widen(stored, lanes), lane));
    }
  }

  /**
   * Stores whole bytes of a packed value, `lanes` of them from byte `at` on (its lane counts them). `byteElements[j]`
   * are the elements in place j of each byte.
   */
  storePacked(value: Value, at: Affine, byteElements: readonly KValue[], lanes: Lanes): void {
    const { dtype } = value.type;
    if (!isPacked(dtype)) throw new Error(`${value.name} is not packed`);
    if (this.group.loop?.homes.has(value.id)) {
      throw new TuttiError('E_UNSUPPORTED', `a loop that stacks ${dtype} cannot be computed on a device yet`, {
        subject: value.name,
        remedy: 'Cast the tensor to a wider type in the model',
      });
    }
    this.addresses.push(at);
    const bytes = packBytes(
      this.b,
      dtype,
      byteElements.map((element) => this.widen(element, lanes)),
    );
    const base = at.atLane(0);
    this.b.store(
      this.#buffers.get(value.id) as KBuffer,
      base.emit(this.b),
      bytes,
      lanes > 1 && base.divisor() % lanes === 0,
    );
  }

  buffer(value: Value): KBuffer | undefined {
    return this.#buffers.get(value.id);
  }

  // --- control flow, with the memo's scopes ----------------------------------------------------------------------

  for(
    lower: KValue | number,
    upper: KValue | number,
    step: number,
    initial: readonly KValue[],
    body: (index: Affine, carried: readonly KValue[]) => readonly KValue[] | void,
    options: { unroll?: boolean } = {},
  ): readonly KValue[] {
    return this.b.for(
      lower,
      upper,
      step,
      initial,
      (index, carried) => this.#scoped(() => body(Affine.of(index, this.b), carried)),
      options,
    );
  }

  if(
    condition: KValue,
    then: () => readonly KValue[] | void,
    otherwise?: () => readonly KValue[] | void,
  ): readonly KValue[] {
    return this.b.if(condition, () => this.#scoped(then), otherwise && (() => this.#scoped(otherwise)));
  }

  #scoped<T>(build: () => T): T {
    this.#memos.push(new Map());
    try {
      return build();
    } finally {
      this.#memos.pop();
    }
  }

  /** An index of the grid, limited to [0, extent); runs `body` only for indices inside. */
  guarded(index: Affine, extent: number, body: (index: Affine) => void): void {
    if (index.range.max < extent) {
      body(index);
      return;
    }
    const value = index.emit(this.b);
    this.if(this.b.compare('lt', value, this.b.constant(extent)), () => {
      body(Affine.of(this.b.assume(value, 0, extent - 1), this.b));
    });
  }

  /**
   * A one-dimensional grid of `count` workgroups, folded into the target's limits; `body` runs once for each.
   * Returns the grid.
   */
  workgroups(count: number, body: (index: Affine) => void): [number, number, number] {
    const [maxX, maxY] = this.target.limits.workgroupCount;
    const x = count <= maxX ? count : Math.ceil(count / Math.ceil(count / maxX));
    const y = Math.ceil(count / x);
    if (y > maxY) throw new Error(`${count} workgroups exceed the device's ${maxX}×${maxY}`);
    const column = Affine.of(this.b.builtin('workgroup_id', 0, x), this.b);
    const row = Affine.of(this.b.builtin('workgroup_id', 1, y), this.b);
    this.guarded(column.add(row.scale(x)), count, body);
    return [x, y, 1];
  }

  finish(
    grid: readonly [number, number, number],
    workgroup: readonly [number, number, number],
    subgroupSize?: number,
  ): KernelFunction {
    return this.b.finish({ name: nameOf(this.group), sources: sourcesOf(this.group), grid, workgroup, subgroupSize });
  }

  // --- values ----------------------------------------------------------------------------------------------------

  #compute(value: Value, index: Index, lanes: Lanes, read: typeof this.value): KValue {
    const override = this.#overrides.get(value.id);
    if (override) {
      const element = override(index, lanes);
      return read === this.unrounded ? element : this.b.convert(element, elementScalar(value.type.dtype));
    }
    const node = this.#producers.get(value.id);
    if (node) return elementOf(this, node, value, index, lanes, read);
    const number = this.group.loop?.numbers.get(value.id);
    if (number) return this.b.convert((this.#iterations.get(number) as Affine).emit(this.b), 'i64');
    const scalar = this.group.scalars.get(value.id);
    if (scalar) return this.constantElement(value, scalar.load());
    return this.load(value, index, lanes);
  }

  constantElement({ type: { dtype } }: Value, tensor: HostTensor): KValue {
    const element = isMiniFloat(dtype) ? (elementsOf(tensor)[0] as number) : firstElement(tensor);
    return this.b.constant(element, elementScalar(dtype));
  }

  /** Reads memory: a vector where the lane is contiguous, else element by element. */
  load(value: Value, index: Index, lanes: Lanes): KValue {
    const buffer = this.#buffers.get(value.id);
    if (!buffer) throw new Error(`${value.name} is neither computed nor read by ${nameOf(this.group)}`);
    const address = this.#address(value, index);
    this.addresses.push(address);
    const { dtype } = value.type;
    if (isPacked(dtype)) return loadPacked(this.b, dtype, buffer, address, lanes);
    const coefficient = lanes === 1 ? 0 : address.laneCoefficient();
    if (coefficient !== undefined && coefficient > 1) {
      const turned = this.#turned(buffer, address, lanes);
      if (turned) return decoded(this.b, dtype, turned);
    }
    const truth = (stored: KValue) => decoded(this.b, dtype, stored);
    if (coefficient === 0) return truth(this.b.load(buffer, address.atLane(0).emit(this.b)));
    if (coefficient === 1) {
      const base = address.atLane(0);
      return truth(this.b.load(buffer, base.emit(this.b), lanes, base.divisor() % lanes === 0));
    }
    if (
      coefficient !== undefined &&
      coefficient > 1 &&
      coefficient <= Math.min(mostSteps, lanes) &&
      this.target.features.has('vectors')
    ) {
      return truth(this.#strided(buffer, address, coefficient, lanes));
    }
    return truth(this.b.build(range(lanes).map((lane) => this.b.load(buffer, address.atLane(lane).emit(this.b)))));
  }

  /** Every `step`-th element: whole vectors and shuffles. The last vector moves back to end at the last element. */
  #strided(buffer: KBuffer, address: Affine, step: number, lanes: Lanes): KValue {
    const { b } = this;
    const base = address.atLane(0);
    const start = (i: number) => (i === step - 1 ? (lanes - 1) * (step - 1) : i * lanes);
    const windows = range(step).map((i) => b.load(buffer, base.add(start(i)).emit(b), lanes));
    return pickLanes(
      b,
      range(lanes).map((lane) => {
        const window = Math.min(step - 1, Math.floor((lane * step) / lanes));
        return { vector: windows[window], lane: lane * step - start(window) };
      }),
    );
  }

  /** The vector of a tile whose rows lie across the lanes: all rows of the tile are loaded and turned at once. */
  #turned(buffer: KBuffer, address: Affine, lanes: Lanes): KValue | undefined {
    const { tile, b } = this;
    if (tile === undefined || lanes !== tile.lanes || address.coefficientOf(tile.start) !== 1) return undefined;
    const corner = address.sub(tile.row);
    const key = (row: number) => `turned:${buffer.name}:${row}:${corner.key}`;
    const known = this.#known(key(tile.row));
    if (known) return known;
    const rows = range(lanes).map((lane) => {
      const at = corner.atLane(lane);
      return b.load(buffer, at.emit(b), lanes, at.divisor() % lanes === 0);
    });
    transposed(b, rows).forEach((column, row) => {
      this.#remember(key(row), column);
    });
    return this.#known(key(tile.row));
  }

  /** The index itself as i32: a vector of `lanes`. */
  indexVector(index: Affine, lanes: Lanes): KValue {
    const { b } = this;
    const coefficient = index.laneCoefficient();
    if (coefficient === undefined) return b.build(range(lanes).map((lane) => index.atLane(lane).emit(b)));
    const steps = b.build(range(lanes).map((lane) => b.constant(lane * coefficient)));
    return b.add(b.splat(index.atLane(0).emit(b), lanes), steps);
  }

  /** An element that can only be computed one at a time: lane by lane where the index mentions the lane. */
  perLane(index: Index, lanes: Lanes, element: (index: Index) => KValue): KValue {
    if (lanes === 1 || !index.some((i) => i.mentionsLane())) return element(index);
    return this.b.build(range(lanes).map((lane) => element(index.map((i) => i.atLane(lane)))));
  }

  /** A data-dependent index: wrapped once if negative, clamped into [0, extent). */
  dataIndex(raw: KValue, extent: number): Affine {
    const { b } = this;
    if (extent === 1) return Affine.constant(0);
    return Affine.of(b.clamp(this.wrappedIndex(raw, extent), 0, extent - 1), b);
  }

  /** A data-dependent index that counts from the end if negative; may still be out of range. */
  wrappedIndex(raw: KValue, extent: number): KValue {
    const { b } = this;
    const value = b.convert(raw, 'i32');
    return b.select(b.compare('lt', value, b.constant(0)), b.addc(value, extent), value);
  }
}

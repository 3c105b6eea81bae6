/**
 * Rebuilds a kernel through a builder, instruction by instruction. Passes override `instruction` for what they
 * change; what they leave alone is copied with its operands replaced, its range and its name kept.
 */
import type { KernelBuilder } from './builder.js';
import { isEngineInst, type KSignal, type KTensorMap, type KTile, mapEngine } from './engines.js';
import type {
  HelperFunction,
  KArray,
  KBlock,
  KBuffer,
  KernelFunction,
  KInst,
  KMemory,
  KParam,
  KValue,
} from './types.js';

type PureBody = Parameters<KernelBuilder['emit']>[0];

export class Rebuilder {
  readonly #values = new Map<KValue, KValue>();
  readonly #memories = new Map<KMemory, KMemory>();
  /** Tiles, signals and tensor maps. */
  readonly #engines = new Map<KTile | KSignal | KTensorMap, KTile | KSignal | KTensorMap>();

  constructor(readonly b: KernelBuilder) {}

  kernel(kernel: KernelFunction): KernelFunction {
    for (const param of kernel.params) this.param(param);
    for (const array of kernel.arrays) this.array(array);
    for (const tile of kernel.tiles) this.#engines.set(tile, this.b.tile(tile));
    for (const signal of kernel.signals) this.#engines.set(signal, this.b.signal(signal.name, signal.count));
    for (const map of kernel.maps)
      this.#engines.set(map, this.b.tensorMap({ ...map, buffer: this.memory(map.buffer) as KBuffer }));
    this.block(kernel.body);
    return this.b.finish({
      name: kernel.name,
      sources: kernel.sources,
      grid: kernel.grid,
      workgroup: kernel.workgroup,
      ...(kernel.subgroupSize === undefined ? {} : { subgroupSize: kernel.subgroupSize }),
    });
  }

  get(value: KValue): KValue {
    const mapped = this.#values.get(value);
    if (!mapped) throw new Error(`value %${value.id} is used before its definition`);
    return mapped;
  }
  set(value: KValue, mapped: KValue): void {
    this.#values.set(value, mapped);
  }
  memory(memory: KMemory): KMemory {
    const mapped = this.#memories.get(memory);
    if (!mapped) throw new Error(`${memory.name} is not of this kernel`);
    return mapped;
  }
  setMemory(memory: KMemory, mapped: KMemory): void {
    this.#memories.set(memory, mapped);
  }

  #engine<T extends KTile | KSignal | KTensorMap>(from: T): T {
    const mapped = this.#engines.get(from);
    if (!mapped) throw new Error(`${from.name} is not of this kernel`);
    return mapped as T;
  }

  protected param(param: KParam): void {
    if (param.kind === 'buffer') {
      this.setMemory(param, this.b.buffer(param.name, param.scalar, param.length, param.access));
    } else this.b.declareScalar(param);
  }

  protected array(array: KArray): void {
    this.setMemory(array, this.b.array(array.name, array.space, array.scalar, array.length));
  }

  protected block(block: KBlock): readonly KValue[] {
    for (const inst of block.instructions) this.instruction(inst);
    return block.yields.map((value) => this.get(value));
  }

  protected helper(callee: HelperFunction, args: readonly KValue[]): KValue {
    return this.b.call(callee.name, args, callee.result, (params) => {
      callee.params.forEach((param, i) => void this.set(param, params[i]));
      return this.block(callee.body)[0];
    });
  }

  protected instruction(inst: KInst): void {
    const { b } = this;
    if (isEngineInst(inst)) {
      const same = <T extends KTile | KSignal | KTensorMap>(from: T): T => this.#engine(from);
      const [use, memory] = [(value: KValue) => this.get(value), (from: KMemory) => this.memory(from)];
      b.engine(mapEngine(inst, { use, memory, tile: same, signal: same, map: same }));
      return;
    }
    switch (inst.op) {
      case 'const':
        this.set(inst.result, b.constant(inst.value, inst.result.type.scalar, inst.result.type.lanes));
        return;
      case 'scalar':
        this.set(inst.result, b.emit({ op: 'scalar', param: inst.param }, inst.result.type, inst.result.range));
        return;
      case 'builtin': {
        const { op, builtin, dim, result } = inst;
        this.set(result, b.emit({ op, builtin, dim }, result.type, result.range));
        return;
      }
      case 'load':
        this.set(
          inst.result,
          b.load(this.memory(inst.memory), this.get(inst.index), inst.result.type.lanes, inst.aligned),
        );
        return;
      case 'store':
        b.store(this.memory(inst.memory), this.get(inst.index), this.get(inst.value), inst.aligned);
        return;
      case 'atomic':
        this.set(inst.result, b.atomic(inst.fn, this.memory(inst.memory), this.get(inst.index), this.get(inst.value)));
        return;
      case 'atomic_compare_exchange':
        this.set(
          inst.result,
          b.compareExchange(
            this.memory(inst.memory),
            this.get(inst.index),
            this.get(inst.expected),
            this.get(inst.value),
          ),
        );
        return;
      case 'subgroup':
        this.set(inst.result, b.subgroup(inst.fn, this.get(inst.a), inst.delta));
        return;
      case 'call':
        this.set(
          inst.result,
          this.helper(
            inst.callee,
            inst.args.map((arg) => this.get(arg)),
          ),
        );
        return;
      case 'for': {
        const options = inst.unroll ? { unroll: true } : {};
        const results = b.for(
          this.get(inst.lower),
          this.get(inst.upper),
          inst.step,
          inst.carried.map((c) => this.get(c.initial)),
          (index, carried) => {
            const { range } = inst.index;
            this.set(inst.index, range && !index.range ? b.assume(index, range.min, range.max) : index);
            inst.carried.forEach((c, i) => void this.set(c.inner, carried[i]));
            return this.block(inst.body);
          },
          options,
        );
        inst.carried.forEach((c, i) => void this.set(c.result, results[i]));
        return;
      }
      case 'loop': {
        const results = b.loop(
          inst.carried.map((c) => this.get(c.initial)),
          (carried) => {
            inst.carried.forEach((c, i) => void this.set(c.inner, carried[i]));
            const next = this.block(inst.body);
            return { condition: this.get(inst.condition), next };
          },
        );
        inst.carried.forEach((c, i) => void this.set(c.result, results[i]));
        return;
      }
      case 'if': {
        const results = b.if(
          this.get(inst.condition),
          () => this.block(inst.then),
          () => this.block(inst.else),
        );
        inst.results.forEach((result, i) => void this.set(result, results[i]));
        return;
      }
      case 'barrier':
        b.barrier();
        return;
      case 'unary':
      case 'convert':
      case 'bitcast':
      case 'splat':
      case 'assume':
      case 'extract': {
        const { result, ...body } = inst;
        this.set(result, b.emit({ ...body, a: this.get(inst.a) } as PureBody, result.type, result.range));
        return;
      }
      case 'binary':
      case 'compare': {
        const { result, ...body } = inst;
        const operands = { a: this.get(inst.a), b: this.get(inst.b) };
        this.set(result, b.emit({ ...body, ...operands } as PureBody, result.type, result.range));
        return;
      }
      case 'fma':
        this.set(inst.result, b.fma(this.get(inst.a), this.get(inst.b), this.get(inst.c)));
        return;
      case 'dot4':
        this.set(inst.result, b.dot4(this.get(inst.a), this.get(inst.b), this.get(inst.c), inst.left, inst.right));
        return;
      case 'select': {
        const { condition, a, b: other, result } = inst;
        this.set(
          result,
          b.emit(
            { op: 'select', condition: this.get(condition), a: this.get(a), b: this.get(other) },
            result.type,
            result.range,
          ),
        );
        return;
      }
      case 'build':
        this.set(
          inst.result,
          b.emit({ op: 'build', elements: inst.elements.map((e) => this.get(e)) }, inst.result.type, inst.result.range),
        );
        return;
      default:
        inst satisfies never;
    }
  }
}

/** Signals as mbarriers, tensor copies by the bulk copy engine, products of warpgroups as wgmma (PTX 8.0, sm_90a). */
import {
  type BulkInst,
  type GroupOperand,
  isTile,
  type KSignal,
  type KTensorMap,
  swizzleBlock,
} from '../../compiler/kernel/bulk.js';
import type { KTile } from '../../compiler/kernel/engines.js';
import { type KernelFunction, type KValue, scalarBits } from '../../compiler/kernel/types.js';
import type { MemoryAccess } from './memory.js';
import { type FunctionText, integerOf, type Reg } from './ptx.js';

/**
 * Matrix descriptors of shared memory (PTX ISA, "Matrix Descriptor Format"), in units of 16 bytes: start in bits 0-13,
 * leading offset in 16-29, stride offset in 32-45, and in 62-63 the swizzle, 1 for 128 bytes.
 */
const swizzle128 = 1n << 62n;
const leadingShift = 16n;
const strideShift = 32n;
/** From eight rows of 128 bytes to the next eight. */
const strideBytes = 2 * swizzleBlock;

/** Name of a map's parameter: the maps follow the scalars. */
export const mapParameter = (kernel: KernelFunction, map: KTensorMap): string => `m${kernel.maps.indexOf(map)}`;

export class BulkRenderer {
  readonly #f: FunctionText;
  readonly #kernel: KernelFunction;
  readonly #memory: MemoryAccess;
  readonly #regOf: (value: KValue) => Reg;
  readonly #sums: (tile: KTile) => readonly Reg[];
  readonly #maps = new Map<KTensorMap, Reg>();
  #always: Reg | undefined;

  /** `sums` gives the registers of a tile in the order of the instruction. */
  constructor(
    text: FunctionText,
    kernel: KernelFunction,
    memory: MemoryAccess,
    regOf: (value: KValue) => Reg,
    sums: (tile: KTile) => readonly Reg[],
  ) {
    this.#f = text;
    this.#kernel = kernel;
    this.#memory = memory;
    this.#regOf = regOf;
    this.#sums = sums;
  }

  render(inst: BulkInst): void {
    const f = this.#f;
    switch (inst.op) {
      case 'signal_init':
        f.line(`mbarrier.init.shared::cta.b64 ${this.#signal(inst.signal, inst.index)}, ${inst.arrivals};`);
        f.line('fence.mbarrier_init.release.cluster;');
        break;
      case 'signal_expect': {
        const place = this.#signal(inst.signal, inst.index);
        f.line(`mbarrier.arrive.expect_tx.shared::cta.b64 _, ${place}, ${inst.bytes};`);
        break;
      }
      case 'signal_arrive':
        f.line(`mbarrier.arrive.shared::cta.b64 _, ${this.#signal(inst.signal, inst.index)};`);
        break;
      case 'signal_wait': {
        const place = this.#signal(inst.signal, inst.index);
        const [again, done] = [f.label(), f.reg(1)];
        f.place(again);
        f.line(`mbarrier.try_wait.parity.shared::cta.b64 ${done}, ${place}, ${this.#regOf(inst.parity)};`);
        f.line(`@!${done} bra ${again};`);
        break;
      }
      case 'tensor_copy': {
        const at = inst.at.map((value) => this.#regOf(value)).join(', ');
        const target = this.#memory.place(inst.memory, inst.index);
        const signal = this.#signal(inst.signal, inst.signalIndex);
        const op = `cp.async.bulk.tensor.${inst.at.length}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes`;
        f.line(`${op} ${target}, [${this.#map(inst.map)}, {${at}}], ${signal};`);
        break;
      }
      case 'group_fence':
        f.line('wgmma.fence.sync.aligned;');
        break;
      case 'group_multiply':
        this.#multiply(inst);
        break;
      case 'group_commit':
        f.line('wgmma.commit_group.sync.aligned;');
        break;
      case 'group_wait':
        f.line(`wgmma.wait_group.sync.aligned ${inst.pending};`);
        break;
      case 'registers':
        f.line(`setmaxnreg.${inst.change === 'grow' ? 'inc' : 'dec'}.sync.aligned.u32 ${inst.count};`);
        break;
      default:
        inst satisfies never;
    }
  }

  #signal(signal: KSignal, index: KValue): string {
    const f = this.#f;
    const base = this.#memory.signalBase(signal);
    const reg = this.#regOf(index);
    const known = integerOf(reg);
    if (known !== undefined) return `[${base}+${8n * known}]`;
    return `[${f.value(32, 'mad.lo.u32', reg, '8', base)}]`;
  }

  #map(map: KTensorMap): Reg {
    let address = this.#maps.get(map);
    if (address === undefined) {
      const own = this.#f.early(64, 'mov.b64', mapParameter(this.#kernel, map));
      this.#maps.set(map, (address = this.#f.early(64, 'cvta.param.u64', own)));
    }
    return address;
  }

  #multiply({ scalar, accumulator, a, b }: BulkInst & { op: 'group_multiply' }): void {
    const f = this.#f;
    this.#always ??= f.early(1, 'setp.eq.u32', '0', '0');
    const shape = `m${accumulator.m}n${accumulator.n}k${accumulator.k}`;
    const sums = `{${this.#sums(accumulator).join(', ')}}`;
    const left = isTile(a) ? `{${this.#sums(a).join(', ')}}` : this.#descriptor(a);
    const right = this.#descriptor(b);
    // Only operands in memory may be turned.
    const turned = (isTile(a) ? [b] : [a, b]).map(({ along }) => (along === 'row' ? 1 : 0)).join(', ');
    const op = `wgmma.mma_async.sync.aligned.${shape}.f32.${scalar}.${scalar}`;
    f.line(`${op} ${sums}, ${left}, ${right}, ${this.#always}, 1, 1, ${turned};`);
  }

  #descriptor({ memory, index, along, panel }: GroupOperand): Reg {
    const f = this.#f;
    const { reg, offset } = this.#memory.address(memory, index);
    const leading = along === 'row' ? BigInt((panel * scalarBits[memory.scalar]) / 8 / 16) : 1n;
    const fixed = swizzle128 | (BigInt(strideBytes / 16) << strideShift) | (leading << leadingShift);
    const base = this.#memory.cached(`descriptor ${reg} ${fixed}`, () => {
      const start = f.value(32, 'bfe.u32', reg, '4', '14');
      return f.value(64, 'or.b64', f.value(64, 'cvt.u64.u32', start), String(fixed));
    });
    return offset === 0 ? base : f.value(64, 'add.s64', base, String(offset / 16));
  }
}

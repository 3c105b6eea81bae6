/**
 * The contract family: dot and conv. Lists the forms that are legal for a contraction on a target, each with its
 * estimated time, and takes the shortest.
 *
 * A form's time is its multiply-adds over the target's rate times the share of it that the form reaches. The shares
 * were measured where devices were at hand (CPU: f32 on two Zen 5 cores, 230 GFLOP/s; lavapipe, SwiftShader); those of
 * shared memory are what the ratio of loads to multiply-adds allows.
 */
import type { NodeOf } from '../../graph/types.js';
import type { Target } from '../../kernel/target.js';
import type { Prefer } from '../forms.js';
import { bindingsOf, type Group } from '../group.js';
import type { LoweredKernel } from '../lowered.js';
import { shapeOf } from '../tensors.js';
import { type Contraction, contractionOf } from './contraction.js';

import { blockWeights, halfWeights } from './dequantise.js';
import { lowerBlocks } from './dequantise_blocks.js';
import { lowerHalves } from './dequantise_halves.js';
import { lowerDirect } from './direct.js';
import { geometryOf } from './geometry.js';
import { filtersMinimally, hasImageForm, imageShare, lowerFiltered, lowerImage } from './image/index.js';
import { sumKernels, wordContraction } from './integer_contraction.js';
import { lowerIntegerPanels } from './integer_panels.js';
import { lowerIntegerPlanes } from './integer_planes.js';
import { byteProduct } from './integers.js';
import { matrixSchedules } from './matrix/index.js';
import { lowerPanels, streams } from './panels/index.js';
import { fullUnit, idleness, planRegisters, type RegisterPlan } from './register_plan.js';
import { copies, lowerRegisters } from './registers.js';
import { blocks, fitted, lowerShared } from './shared.js';
import { splitSchedules } from './split_k.js';
import { lowerStaged } from './staged.js';
import { lowerWindows, planWindows } from './windows.js';

/** A form of a contraction: its kernels, and about how many microseconds they take. */
export interface Schedule {
  readonly name: string;
  readonly cost: number;
  /** Workgroups that have work to do in full, where they may be too few for the device. */
  readonly workgroups?: number;
  lower(): readonly LoweredKernel[];
}

/** Shares of the multiply rate. */
const efficiency = {
  /** Vector lanes, but no reuse: a load or two for each multiply-add. */
  direct: 0.03,
  /** Register tiles over panels; 0.85 was measured for large products, small ones reach less. */
  packed: 0.7,
  /** The same when the rhs of a convolution is gathered element by element. */
  gathered: 0.15,
  /** Products of bytes, four to a lane. */
  bytes: 2.8,
  gatheredBytes: 0.5,
  /** Weights of few bits, unpacked in registers: what counts is that they are fewer bytes. */
  blocks: 1,
  /** Register tiles over a padded copy of the image. */
  staged: 0.75,
  /** Minimal filtering of 3×3 windows does a quarter of the multiply-adds, and transforms. */
  winograd: 1.5,
};

/** @param prefer Puts the legal forms in order where their estimated cost is not all that is known. */
export function lowerContract(group: Group, target: Target, prefer?: Prefer): readonly LoweredKernel[] {
  const legal = schedules(group, target);
  for (const schedule of prefer?.(group, legal) ?? legal) {
    const lowered = schedule.lower();
    if (lowered.length > 0) return lowered;
  }
  throw new Error('every contraction has a direct form');
}

/** Legal forms of a contraction, best first. A form that finds no room on the target lowers to no kernels. */
export function schedules(group: Group, target: Target): readonly Schedule[] {
  const whole = formsOf(group, target);
  const split = splitSchedules(group, target, whole[0], (sliced) => formsOf(sliced, target));
  return split.length > 0 ? [...whole, ...split].sort(byCost) : whole;
}

const byCost = (p: Schedule, q: Schedule): number => p.cost - q.cost;

/** Forms of one pass over k, or over each slice of it. */
export function formsOf(group: Group, target: Target): readonly Schedule[] {
  const contraction = contractionOf(group);
  const candidates = target.style === 'cpu' ? onCpu(group, target, contraction) : onGpu(group, target, contraction);
  const matrix = matrixSchedules(group, target, contraction);
  return [...matrix, ...candidates, direct(group, target, contraction)].sort(byCost);
}

/** Microseconds of all multiply-adds at a share of the target's rate. */
function timeOf({ batch, m, n, k }: Contraction, target: Target, share: number): number {
  return (2 * batch * m * n * k) / (target.rates.gflops * 1e3 * share);
}

function direct(group: Group, target: Target, contraction: Contraction): Schedule {
  const { batch, m, n } = contraction;
  const invocations = Math.ceil((batch * m * n) / target.vectorLanes);
  // Few results of a convolution are better computed so than in tiles: those want a copy of the image first.
  const idles = target.style === 'simt' && (group.anchor?.op === 'dot' || isPointwise(group));
  const workgroups = invocations / fullUnit;
  const idle = idles ? idleness(target, workgroups, Math.ceil(workgroups)) : 1;
  return {
    name: 'direct',
    cost: timeOf(contraction, target, efficiency.direct / idle),
    ...(target.style === 'simt' ? { workgroups } : {}),
    lower: () => [{ kernel: lowerDirect(group, target), bindings: bindingsOf(group) }],
  };
}

function onCpu(group: Group, target: Target, contraction: Contraction): Schedule[] {
  const { m, n, k } = contraction;
  if (group.slices) return [panels(group, target, contraction, efficiency.packed)];
  const moves = group.anchor?.op === 'conv' && !isPointwise(group);
  const candidates: Schedule[] = [];
  const bytes = byteProduct(group, target, contraction);
  if (bytes) {
    if (moves) {
      candidates.push({
        name: 'bytes planes',
        cost: timeOf(contraction, target, efficiency.bytes),
        lower: () => [lowerIntegerPlanes(group, target, bytes) ?? []].flat(),
      });
    }
    candidates.push({
      name: 'bytes panels',
      cost: timeOf(contraction, target, moves ? efficiency.gatheredBytes : efficiency.bytes),
      lower: () => [lowerIntegerPanels(group, target, bytes) ?? []].flat(),
    });
  }
  if (moves && hasImageForm(group, target)) {
    if (filtersMinimally(group.anchor as NodeOf<'conv'>, target)) {
      candidates.push({
        name: 'winograd',
        cost: timeOf(contraction, target, efficiency.winograd),
        lower: () => lowerFiltered(group, target),
      });
    }
    candidates.push({
      name: 'image',
      cost: timeOf(contraction, target, imageShare(group, target)),
      lower: () => lowerImage(group, target),
    });
  }
  const weights = bytes ? undefined : blockWeights(group, target, contraction);
  if (weights) {
    candidates.push({
      name: 'blocks',
      cost: timeOf(contraction, target, efficiency.blocks),
      lower: () => [lowerBlocks(group, target, contraction, weights) ?? []].flat(),
    });
  }
  const halves = bytes || weights ? undefined : halfWeights(group, target, contraction);
  if (halves) {
    candidates.push({
      name: 'halves',
      cost: timeOf(contraction, target, efficiency.blocks),
      lower: () => [lowerHalves(group, target, contraction, halves) ?? []].flat(),
    });
  }
  if (moves && geometryOf(group)) {
    candidates.push({
      name: 'staged',
      cost: timeOf(contraction, target, efficiency.staged),
      lower: () => lowerStaged(group, target) ?? [],
    });
  }
  // Tiles pay where operands are reused, or where columns stream through without being packed.
  if (k >= 4 && (Math.min(m, n) >= 4 || streams(group, target))) {
    candidates.push(panels(group, target, contraction, moves ? efficiency.gathered : efficiency.packed));
  }
  return candidates;
}

function panels(group: Group, target: Target, contraction: Contraction, share: number): Schedule {
  return { name: 'packed', cost: timeOf(contraction, target, share), lower: () => [lowerPanels(group, target)] };
}

function onGpu(group: Group, target: Target, contraction: Contraction): Schedule[] {
  const words = wordContraction(group, target, contraction);
  return [...tilesOnGpu(group, target, contraction), ...(words ? tilesOnGpu(group, target, words) : [])];
}

/** Tiles of elements, or of words of four bytes: a `dot4` counts as one multiply-add. */
function tilesOnGpu(group: Group, target: Target, contraction: Contraction): Schedule[] {
  const { batch, m, n, k, words } = contraction;
  // Each operation of an emulated type is hundreds of instructions: a tile of them would not compile.
  if (!target.arithmetic.has(contraction.accumulator)) return [];
  if ((k < 4 && !words) || Math.max(m, n) < 4) return [];
  const prefix = words ? 'bytes ' : '';
  const plan = planRegisters(group, target, contraction);
  // Few rows pay where columns come in vectors.
  const streaming = plan.reading !== 'element' || group.constants.has(plan.contraction.rhs.value.id);
  if (Math.min(m, n) < 4 && !plan.geometry && !streaming) return [];
  const lowered = (kernels: () => readonly LoweredKernel[]) => () => [
    ...sumKernels(group, target, contraction),
    ...kernels(),
  ];
  const candidates: Schedule[] = [];
  if (!unfolds(group, plan)) {
    candidates.push({
      name: `${prefix}registers ${plan.tile.rows}×${plan.tile.columns}`,
      cost: timeOf(contraction, target, 1 / plan.tile.cost),
      workgroups: plan.tile.workgroups,
      lower: lowered(() => lowerRegisters(group, target, plan)),
    });
  }
  const windows = words ? undefined : planWindows(group, target, contraction);
  if (windows) {
    candidates.push({
      name: `windows ${windows.lines}×${windows.columns}`,
      cost: timeOf(contraction, target, 1 / windows.cost),
      lower: () => [lowerWindows(group, target, windows)],
    });
  }
  // Barriers are cheap on real GPUs only; zeros between elements would be multiplied.
  const isSparse = group.anchor?.op === 'conv' && group.anchor.attrs.inputDilation.some((step) => step > 1);
  if (target.style !== 'simt' || isSparse) return candidates;
  for (const { block, efficiency: share } of blocks) {
    const legal = fitted(block, contraction, target);
    if (!legal) continue;
    const [down, across] = [Math.ceil(m / block.blockM), Math.ceil(n / block.blockN)];
    const waste = (down * block.blockM * across * block.blockN) / (m * n);
    const tiles = batch * down * across;
    const waves = (Math.ceil(tiles / target.parallelism) * target.parallelism) / tiles;
    candidates.push({
      name: `${prefix}shared ${block.blockM}×${block.blockN}×${legal.blockK}`,
      cost: timeOf(contraction, target, share / (waste * waves)),
      workgroups: tiles,
      lower: lowered(() => [lowerShared(group, target, contraction, legal)]),
    });
  }
  return candidates;
}

/** Whether slices of an image would be copied once for every tap: they know nothing of the taps' geometry. */
const unfolds = ({ slices, anchor }: Group, plan: RegisterPlan): boolean =>
  slices !== undefined &&
  anchor?.op === 'conv' &&
  plan.contraction.extents.slice(1).some((taps) => taps > 1) &&
  plan.contraction.rhs.value === anchor.inputs[0] &&
  copies(plan);

/** A matrix product as it is: 1×1, stride 1, no padding. */
function isPointwise({ anchor }: Group): boolean {
  if (anchor?.op !== 'conv') return false;
  const { strides, inputDilation, padLow, padHigh } = anchor.attrs;
  return (
    shapeOf(anchor.inputs[1])
      .slice(2)
      .every((extent) => extent === 1) &&
    [...strides, ...inputDilation].every((step) => step === 1) &&
    [...padLow, ...padHigh].every((pad) => Number(pad) === 0)
  );
}

/**
 * Contraction on a GPU in registers: each invocation keeps a tile of rows × columns of sums, as scalars, and walks along
 * k with aligned vector loads on both sides. Invocations of a workgroup take the same rows and neighbouring columns. On
 * devices that are executed by a CPU this is the fastest form — barriers cost more there than caches save — and a
 * subgroup reads the rows' factors together; on others it is for few rows, and invocations may share k among them.
 */
import type { Target } from '../../kernel/target.js';
import type { KBuffer, KValue } from '../../kernel/types.js';
import { Affine, delinearize } from '../affine.js';
import type { Group } from '../group.js';
import type { Binding, DerivedConstant, LoweredKernel } from '../lowered.js';
import { range } from '../tensors.js';
import type { Contraction } from './contraction.js';
import { type Copy, copyPlanes, copyRows, type PlanesCopy, trimmed } from './copy.js';
import { unrolledStores } from './finish.js';
import type { Geometry } from './geometry.js';
import { loweringOf, Shares } from './integer_contraction.js';
import { packedLhs, packedRhs, type Reading, readingOf } from './packing.js';
import type { RegisterPlan, Space, Tile } from './register_plan.js';
import { readColumns, readRows } from './registers/columns.js';
import { Factors } from './registers/factors.js';
import type { Form, Place } from './registers/form.js';
import { sumOverPlanes } from './registers/planes.js';
import { type ResultOptions, storeTile } from './registers/results.js';
import { meetSlices, sumOverK } from './registers/sums.js';
import { limited, sharingOf } from './sharing.js';
import { vector } from './tiling.js';

/** Where columns come from. */
type Source =
  | { readonly kind: 'planes'; readonly geometry: Geometry; readonly copy: PlanesCopy }
  /** [batch][k][pitch], aligned: a copy, or a constant in that form. */
  | { readonly kind: 'rows'; readonly copy: Copy }
  | { readonly kind: 'constant'; readonly pitch: number; readonly data: DerivedConstant }
  | { readonly kind: 'operand'; readonly reading: Reading };

/** Rows of a contraction from which on columns, which are read by several row tiles, are worth a copy. */
const leastCopied = 8;

/** Whether another kernel copies the columns first, unless they are a constant that can be packed. */
export const copies = ({ contraction, geometry, reading }: RegisterPlan): boolean =>
  geometry !== undefined || (reading === 'element' && contraction.m >= leastCopied);

/** lavapipe unrolls loops over arrays by itself, and then takes longer. */
const softwareUnrolledStores = 256;

export function lowerRegisters(group: Group, target: Target, plan: RegisterPlan): readonly LoweredKernel[] {
  const { contraction, geometry, reading, space, tile } = plan;
  const lower = (source: Source) => new RegisterTiles(group, target, contraction, space, tile, source).lower();
  if (geometry) {
    const copy = copyPlanes(group, target, contraction, geometry, Math.ceil(space.width / tile.columns) * tile.columns);
    return [copy.kernel, lower({ kind: 'planes', geometry, copy })];
  }
  const pitch = Math.ceil(contraction.n / vector) * vector;
  const data =
    reading === 'along-row' || contraction.lhs.value === contraction.rhs.value
      ? undefined
      : packedRhs(group, contraction, pitch);
  if (data) return [lower({ kind: 'constant', pitch, data })];
  if (copies(plan)) {
    const copy = copyRows(group, target, contraction);
    return [copy.kernel, lower({ kind: 'rows', copy })];
  }
  return [lower({ kind: 'operand', reading })];
}

class RegisterTiles {
  readonly #form: Form;
  readonly #source: Source;
  /** A copy or a constant of the columns, where there is one. */
  readonly #copied: KBuffer | undefined;
  readonly #factors: Factors;
  readonly #sharing: number;
  readonly #results: ResultOptions;

  constructor(group: Group, target: Target, contraction: Contraction, space: Space, tile: Tile, source: Source) {
    const { lhs, rhs, lhsBatches, m, k, accumulator, scalar } = contraction;
    this.#source = source;
    const packed = packedLhs(group, contraction, tile.rows);
    const derived = new Map<number, DerivedConstant>();
    if (packed) derived.set(lhs.value.id, packed);
    if (source.kind === 'constant') derived.set(rhs.value.id, source.data);
    const lowering = loweringOf(group, target, contraction, derived);
    this.#form = { lowering, contraction, space, tile };
    this.#copied =
      source.kind === 'operand'
        ? undefined
        : source.kind === 'constant'
          ? lowering.buffer(rhs.value)
          : lowering.b.buffer('copy', scalar, source.copy.length, 'read');
    this.#sharing = sharingOf(target, tile.along, accumulator);
    this.#factors = new Factors(this.#form, {
      packed: packed !== undefined,
      reading: packed ? 'along-row' : readingOf(group, lhs, lhsBatches, m, k),
      sharing: this.#sharing,
    });
    this.#results = {
      group,
      geometry: source.kind === 'planes' ? source.geometry : undefined,
      shares: new Shares(lowering, contraction),
      limit: target.style === 'software-gpu' ? softwareUnrolledStores : unrolledStores,
    };
  }

  lower(): LoweredKernel {
    const form = this.#form;
    const { lowering } = form;
    const { b } = lowering;
    const { batch, m } = form.contraction;
    const { lines, width, classes } = form.space;
    const { rows, columns, along, across, slices } = form.tile;
    const segments = Math.ceil(width / columns);
    const tilesM = Math.ceil(m / rows);
    const tilesN = lines * segments;
    const local = Affine.of(b.builtin('local_id', 0, along * across * slices), b);
    const [slice, localM, localN] = delinearize(local, [slices, across, along]);
    const counts = [classes, batch, Math.ceil(tilesM / across), Math.ceil(tilesN / along)];
    const grid = lowering.workgroups(
      counts.reduce((p, c) => p * c, 1),
      (index) => {
        const [classAt, batchAt, groupM, groupN] = delinearize(index, counts);
        const tile = (tileM: Affine, tileN: Affine, store: (body: () => void) => void): void => {
          const [line, segment] = delinearize(tileN, [lines, segments]);
          const first = segment.scale(columns);
          const byClass = (at: number): void => {
            const here = () => {
              const place: Place = { batch: batchAt, tileM, line, first, classAt: at, slice };
              meetSlices(form, this.#sums(place), slice, localM.scale(along).add(localN), (sums) =>
                store(() => storeTile(form, this.#results, place, sums)),
              );
            };
            if (at === classes - 1) here();
            else lowering.if(b.compare('eq', classAt.emit(b), b.constant(at)), here, () => byClass(at + 1));
          };
          byClass(0);
        };
        const tileM = groupM.scale(across).add(localM);
        const tileN = groupN.scale(along).add(localN);
        // Invocations without a tile of their own work for the others: what they compute is not stored.
        const extra = (body: () => void) => lowering.guarded(tileN, tilesN, body);
        const within = (at: Affine, extent: number) => limited(lowering, at, extent - 1);
        if (slices > 1) {
          tile(within(tileM, tilesM), within(tileN, tilesN), (body) =>
            lowering.guarded(tileM, tilesM, () => extra(body)),
          );
        } else {
          lowering.guarded(tileM, tilesM, (row) => {
            if (this.#sharing > 1) tile(row, within(tileN, tilesN), extra);
            else lowering.guarded(tileN, tilesN, (column) => tile(row, column, (body) => body()));
          });
        }
      },
    );
    const sharing = this.#sharing > 1 ? this.#sharing : undefined;
    const kernel = lowering.finish(grid, [along * across * slices, 1, 1], sharing);
    const bindings: Binding[] = [...lowering.bindings];
    if (this.#source.kind === 'planes' || this.#source.kind === 'rows') bindings.push(this.#source.copy.memory);
    return trimmed(kernel, [...bindings, ...this.#results.shares.bindings]);
  }

  #sums(place: Place): readonly KValue[] {
    const form = this.#form;
    const { lowering, contraction } = form;
    const { accumulator, extents, k } = contraction;
    const { rows, columns } = form.tile;
    const zero = lowering.b.zero(accumulator);
    const zeros = range(rows * columns).map(() => zero);
    if (k === 0) return zeros;
    const source = this.#source;
    const copied = this.#copied as KBuffer;
    switch (source.kind) {
      case 'planes': {
        const { geometry, copy } = source;
        return sumOverPlanes(form, this.#factors, { geometry, copy, copied }, place, zeros);
      }
      case 'rows':
      case 'constant': {
        const { pitch } = source.kind === 'rows' ? source.copy : source;
        const columnsAt = (step: Affine, count: number) => readRows(form, copied, pitch, place, step, count);
        return sumOverK(form, this.#factors, [k], place, columnsAt, zeros);
      }
      case 'operand': {
        const { reading } = source;
        const columnsAt = (step: Affine, count: number) => readColumns(form, reading, place, step, count);
        return sumOverK(form, this.#factors, reading === 'element' ? extents : [k], place, columnsAt, zeros);
      }
      default:
        return source satisfies never;
    }
  }
}

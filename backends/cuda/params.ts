/** Parameters and results of PTX functions: memory of the `.param` space, a vector as its lanes one after the other. */
import type { KType, ScalarType } from '../../compiler/kernel/types.js';
import { type FunctionText, type Reg, rawBits, widthOf } from './ptx.js';
import { arrayAlignment } from './shared.js';

type Lanes = readonly Reg[];

/** Bytes of one lane in a parameter: predicates and small integers take a word. */
const laneBytes = (scalar: ScalarType): number => Math.max(widthOf(scalar) === 1 ? 32 : widthOf(scalar), 16) / 8;

export function paramOf({ scalar, lanes }: KType, name: string): string {
  const bytes = laneBytes(scalar);
  return lanes === 1
    ? `.param .b${8 * bytes} ${name}`
    : `.param .align ${arrayAlignment} .b8 ${name}[${bytes * lanes}]`;
}

export function loadParam(f: FunctionText, { scalar, lanes }: KType, name: string): Lanes {
  const bytes = laneBytes(scalar);
  return Array.from({ length: lanes }, (_, i) => {
    const width = widthOf(scalar);
    const held = f.value(width === 1 ? 32 : width, `ld.param.b${8 * bytes}`, `[${name}+${i * bytes}]`);
    return width === 1 ? f.value(1, 'setp.ne.u32', held, '0') : held;
  });
}

export function storeParam(f: FunctionText, { scalar }: KType, name: string, lanes: Lanes): void {
  const bytes = laneBytes(scalar);
  lanes.forEach((lane, i) => {
    const held = widthOf(scalar) === 1 ? f.value(32, 'selp.b32', '1', '0', lane) : rawBits(lane);
    f.line(`st.param.b${8 * bytes} [${name}+${i * bytes}], ${held};`);
  });
}

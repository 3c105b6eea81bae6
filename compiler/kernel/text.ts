/** The words of the readable text that its printers, and messages, have in common. */
import type { KMemory, KType, KValue } from './types.js';

/** The name of a value, as `%3`. */
export type Name = (value: KValue) => string;

/** `f32x4`. */
export const printType = (type: KType): string => (type.lanes === 1 ? type.scalar : `${type.scalar}x${type.lanes}`);

/** `@name`, quoted where it is not an identifier. */
export const symbol = (name: string): string =>
  /^[A-Za-z_][A-Za-z0-9_]*$/.test(name) ? `@${name}` : `@${JSON.stringify(name)}`;

/** `@memory[%index]`. */
export const place = (memory: KMemory, index: KValue, name: Name): string => `${symbol(memory.name)}[${name(index)}]`;

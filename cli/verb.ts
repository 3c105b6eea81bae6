/** What a verb's file exports: it adds its command to the program. */
import type { Command } from 'commander';

/** A verb's work: resolves with its exit code, 0 if it says nothing. */
export type Action<A extends unknown[]> = (...args: A) => Promise<number | undefined>;
/** Turns an action into what commander calls. */
export type Wrap = <A extends unknown[]>(action: Action<A>) => (...args: A) => Promise<void>;
export type Verb = (program: Command, wrap: Wrap) => void;

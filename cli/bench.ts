import type { Verb } from './verb.js';
export const benchVerb: Verb = () => {};

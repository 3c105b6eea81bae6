import type { Verb } from './verb.js';
export const inspectVerb: Verb = () => {};

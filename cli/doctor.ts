import type { Verb } from './verb.js';
export const doctorVerb: Verb = () => {};

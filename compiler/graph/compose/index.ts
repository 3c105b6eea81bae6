/**
 * Graphs in the terms that frontends, decompositions and the public builder think in: numpy broadcasting, matmul,
 * activations. Everything is expressed in the ops of the IR; ops that would change nothing are left out.
 * Axes may be negative here; in the IR they are not.
 */

export * from './activations.js';
export { axesOf, axisOf } from './append.js';
export * from './broadcast.js';
export * from './constants.js';
export * from './elementwise.js';
export * from './indexing.js';
export * from './matmul.js';
export * from './movement.js';
export * from './reductions.js';

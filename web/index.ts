/** Tutti in a browser: the same API over `navigator.gpu`. Models are given by address, bytes or graph. */
export * from '../index.js';

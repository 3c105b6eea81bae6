/**
 * Symbolic dims: canonical integer expressions over named dims.
 *
 * A `SymDim` is a sum of monomials with integer coefficients; a monomial is a product of atoms; an atom is a named dim
 * or a division, remainder, minimum or maximum of such expressions. Equal expressions print alike, so the printed form
 * is the identity. A `Dim` that is known is a plain number.
 */
export type Dim = number | SymDim;

/** Inclusive interval of a named dim. */
export interface DimBounds {
  readonly min: number;
  readonly max: number;
}

type AtomFn = 'floordiv' | 'mod' | 'min' | 'max';
type Atom = { readonly fn: 'name'; readonly name: string } | { readonly fn: AtomFn; readonly a: Dim; readonly b: Dim };
interface Term {
  readonly coefficient: number;
  /** Sorted by their printed form. */
  readonly atoms: readonly Atom[];
}

export class SymDim {
  readonly terms: readonly Term[];
  readonly constant: number;
  readonly #text: string;

  constructor(terms: readonly Term[], constant: number) {
    this.terms = terms;
    this.constant = constant;
    this.#text = printSum(terms, constant);
  }

  toString(): string {
    return this.#text;
  }
}

export const isSymbolic = (dim: Dim): dim is SymDim => typeof dim !== 'number';
export const isConcrete = (shape: readonly Dim[]): shape is readonly number[] =>
  shape.every((d) => typeof d === 'number');
export const dimName = (name: string): SymDim => new SymDim([{ coefficient: 1, atoms: [{ fn: 'name', name }] }], 0);
export const dimEquals = (a: Dim, b: Dim): boolean => a === b || String(a) === String(b);
export const shapeEquals = (a: readonly Dim[], b: readonly Dim[]): boolean =>
  a.length === b.length && a.every((dim, i) => dimEquals(dim, b[i]));
export const printShape = (shape: readonly Dim[]): string => `[${shape.map(String).join(', ')}]`;

export function addDims(a: Dim, b: Dim): Dim {
  if (typeof a === 'number' && typeof b === 'number') return a + b;
  return sum([...termsOf(a), ...termsOf(b)], constantOf(a) + constantOf(b));
}
export const subDims = (a: Dim, b: Dim): Dim => addDims(a, mulDims(b, -1));

export function mulDims(a: Dim, b: Dim): Dim {
  if (typeof a === 'number' && typeof b === 'number') return a * b;
  const left: Term[] = [...termsOf(a), { coefficient: constantOf(a), atoms: [] }];
  const right: Term[] = [...termsOf(b), { coefficient: constantOf(b), atoms: [] }];
  const products = left.flatMap((x) =>
    right.map((y) => ({
      coefficient: x.coefficient * y.coefficient,
      atoms: [...x.atoms, ...y.atoms].sort((p, q) => (printAtom(p) < printAtom(q) ? -1 : 1)),
    })),
  );
  return sum(products, 0);
}
export const productOf = (shape: readonly Dim[]): Dim => shape.reduce<Dim>(mulDims, 1);

/** Quotient rounded down. Exact divisions of all terms by a number simplify, and so does x·y / y. */
export function floorDivDims(a: Dim, b: Dim): Dim {
  if (typeof a === 'number' && typeof b === 'number') return Math.floor(a / b);
  if (b === 1) return a;
  if (a === 0) return 0;
  if (dimEquals(a, b)) return 1;
  if (typeof b === 'number' && typeof a !== 'number') {
    const exact = a.terms.filter((t) => t.coefficient % b === 0);
    if (exact.length > 0) {
      const quotient = sum(
        exact.map((t) => ({ ...t, coefficient: t.coefficient / b })),
        Math.floor(a.constant / b),
      );
      const remainder = sum(
        a.terms.filter((t) => t.coefficient % b !== 0),
        a.constant - Math.floor(a.constant / b) * b,
      );
      if (typeof remainder === 'number') return addDims(quotient, Math.floor(remainder / b));
      return addDims(quotient, atomDim({ fn: 'floordiv', a: remainder, b }));
    }
  }
  const divided = typeof b !== 'number' ? cancel(a, b) : undefined;
  return divided ?? atomDim({ fn: 'floordiv', a, b });
}
export const ceilDivDims = (a: Dim, b: Dim): Dim => mulDims(floorDivDims(mulDims(a, -1), b), -1);

export function modDims(a: Dim, b: Dim): Dim {
  if (typeof a === 'number' && typeof b === 'number') return a - Math.floor(a / b) * b;
  if (b === 1 || dimEquals(a, b)) return 0;
  return atomDim({ fn: 'mod', a, b });
}
export function minDims(a: Dim, b: Dim): Dim {
  return typeof a === 'number' && typeof b === 'number'
    ? Math.min(a, b)
    : dimEquals(a, b)
      ? a
      : atomDim({ fn: 'min', a, b });
}
export function maxDims(a: Dim, b: Dim): Dim {
  return typeof a === 'number' && typeof b === 'number'
    ? Math.max(a, b)
    : dimEquals(a, b)
      ? a
      : atomDim({ fn: 'max', a, b });
}

/** Replaces named dims; names without a binding stay. */
export function substituteDim(dim: Dim, bindings: ReadonlyMap<string, Dim>): Dim {
  if (typeof dim === 'number') return dim;
  return dim.terms.reduce<Dim>(
    (total, term) =>
      addDims(
        total,
        term.atoms.reduce<Dim>((product, atom) => mulDims(product, substituteAtom(atom, bindings)), term.coefficient),
      ),
    dim.constant,
  );
}

/** Names that occur in the dim. */
export function dimNames(dim: Dim): Set<string> {
  const names = new Set<string>();
  const visit = (d: Dim): void => {
    if (typeof d === 'number') return;
    for (const atom of d.terms.flatMap((t) => t.atoms)) {
      if (atom.fn === 'name') names.add(atom.name);
      else {
        visit(atom.a);
        visit(atom.b);
      }
    }
  };
  visit(dim);
  return names;
}

/** Interval of the dim's values. Names without bounds lie in [0, 2^31 - 1]. */
export function boundsOf(dim: Dim, bounds: ReadonlyMap<string, DimBounds>): DimBounds {
  if (typeof dim === 'number') return { min: dim, max: dim };
  let [min, max] = [dim.constant, dim.constant];
  for (const term of dim.terms) {
    let interval: DimBounds = { min: term.coefficient, max: term.coefficient };
    for (const atom of term.atoms) interval = multiply(interval, atomBounds(atom, bounds));
    min += interval.min;
    max += interval.max;
  }
  return { min, max };
}

/** The name if the dim is nothing but a name. */
export function plainName(dim: Dim): string | undefined {
  if (typeof dim === 'number' || dim.constant !== 0 || dim.terms.length !== 1) return undefined;
  const [{ coefficient, atoms }] = dim.terms;
  return coefficient === 1 && atoms.length === 1 && atoms[0].fn === 'name' ? atoms[0].name : undefined;
}

// --- internals -----------------------------------------------------------------------------------------------------

const termsOf = (dim: Dim): readonly Term[] => (typeof dim === 'number' ? [] : dim.terms);
const constantOf = (dim: Dim): number => (typeof dim === 'number' ? dim : dim.constant);
const atomDim = (atom: Atom): SymDim => new SymDim([{ coefficient: 1, atoms: [atom] }], 0);

function sum(terms: readonly Term[], constant: number): Dim {
  const merged = new Map<string, Term>();
  let total = constant;
  for (const term of terms) {
    if (term.atoms.length === 0) {
      total += term.coefficient;
      continue;
    }
    const key = term.atoms.map(printAtom).join('*');
    const known = merged.get(key);
    merged.set(key, known ? { ...known, coefficient: known.coefficient + term.coefficient } : term);
  }
  const kept = [...merged.entries()].filter(([, t]) => t.coefficient !== 0).sort(([p], [q]) => (p < q ? -1 : 1));
  return kept.length === 0
    ? total
    : new SymDim(
        kept.map(([, t]) => t),
        total,
      );
}

/** a / b where every monomial of `a` contains the single monomial `b`. */
function cancel(a: Dim, b: SymDim): Dim | undefined {
  if (typeof a === 'number' || a.constant !== 0 || b.constant !== 0 || b.terms.length !== 1) return undefined;
  const [divisor] = b.terms;
  const quotients: Term[] = [];
  for (const term of a.terms) {
    if (term.coefficient % divisor.coefficient !== 0) return undefined;
    const rest = [...term.atoms];
    for (const atom of divisor.atoms) {
      const at = rest.findIndex((other) => printAtom(other) === printAtom(atom));
      if (at < 0) return undefined;
      rest.splice(at, 1);
    }
    quotients.push({ coefficient: term.coefficient / divisor.coefficient, atoms: rest });
  }
  return sum(quotients, 0);
}

function substituteAtom(atom: Atom, bindings: ReadonlyMap<string, Dim>): Dim {
  if (atom.fn === 'name') return bindings.get(atom.name) ?? dimName(atom.name);
  const [a, b] = [substituteDim(atom.a, bindings), substituteDim(atom.b, bindings)];
  return { floordiv: floorDivDims, mod: modDims, min: minDims, max: maxDims }[atom.fn](a, b);
}

function atomBounds(atom: Atom, bounds: ReadonlyMap<string, DimBounds>): DimBounds {
  if (atom.fn === 'name') return bounds.get(atom.name) ?? { min: 0, max: 2 ** 31 - 1 };
  const [a, b] = [boundsOf(atom.a, bounds), boundsOf(atom.b, bounds)];
  switch (atom.fn) {
    case 'floordiv': {
      if (b.min <= 0) return { min: Math.min(a.min, 0), max: Math.max(a.max, 0) };
      const corners = [a.min / b.min, a.min / b.max, a.max / b.min, a.max / b.max].map(Math.floor);
      return { min: Math.min(...corners), max: Math.max(...corners) };
    }
    case 'mod':
      return { min: 0, max: Math.max(0, b.max - 1) };
    case 'min':
      return { min: Math.min(a.min, b.min), max: Math.min(a.max, b.max) };
    case 'max':
      return { min: Math.max(a.min, b.min), max: Math.max(a.max, b.max) };
    default:
      return atom satisfies never;
  }
}

function multiply(a: DimBounds, b: DimBounds): DimBounds {
  const corners = [a.min * b.min, a.min * b.max, a.max * b.min, a.max * b.max];
  return { min: Math.min(...corners), max: Math.max(...corners) };
}

function printAtom(atom: Atom): string {
  return atom.fn === 'name' ? atom.name : `${atom.fn}(${String(atom.a)}, ${String(atom.b)})`;
}

function printSum(terms: readonly Term[], constant: number): string {
  let text = '';
  for (const { coefficient, atoms } of terms) {
    const product = atoms.map(printAtom).join('*');
    const size = Math.abs(coefficient) === 1 ? product : `${Math.abs(coefficient)}*${product}`;
    text += text === '' ? (coefficient < 0 ? `-${size}` : size) : coefficient < 0 ? ` - ${size}` : ` + ${size}`;
  }
  if (constant !== 0) text += constant < 0 ? ` - ${-constant}` : ` + ${constant}`;
  return text;
}

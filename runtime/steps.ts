/**
 * Work that is written once and done in two ways: with promises, or at once in the calling thread. It is a generator that
 * yields the promises which it meets; where there are none it runs to its end in one go.
 */

/** There already, or to come. */
export type Pending<T> = T | Promise<T>;

export type Steps<T> = Generator<Promise<unknown>, T, unknown>;

/** The value, once it is there: `const value = yield* outcome(pending)`. */
export function* outcome<T>(pending: Pending<T>): Steps<T> {
  return pending instanceof Promise ? ((yield pending) as T) : pending;
}

/** Does the work, waiting for what it yields. Until the first wait it is done when this returns. */
export async function whenDone<T>(steps: Steps<T>): Promise<T> {
  let next = steps.next();
  while (next.done !== true) {
    let value: unknown;
    try {
      value = await next.value;
    } catch (error) {
      next = steps.throw(error);
      continue;
    }
    next = steps.next(value);
  }
  return next.value;
}

/** Does work that has nothing to wait for. */
export function atOnce<T>(steps: Steps<T>): T {
  const next = steps.next();
  if (next.done === true) return next.value;
  // A bug of ours: what runs at once must not be given promises. Nobody looks at this one any more.
  next.value.catch(() => undefined);
  steps.throw(new Error('work that has to be done at once has met a promise'));
  throw new Error('work that has to be done at once goes on after an error');
}

/** Commands as flat numbers, handles by index and scalars in one array: one native call, whatever their count. */
import type { BufferRange, Command, Target } from '../backend.js';
import { checkCopy, checkDispatch, checkFill } from './checks.js';
import { foreignError } from './errors.js';
import { AddonBuffer, AddonKernel, type NativeHandle, type ResourceOwner } from './resources.js';

/** First number of each command; native/common/commands.h reads them. */
const opcodes = { dispatch: 0, copy: 1, fill: 2, barrier: 3 } as const satisfies Record<Command['kind'], number>;

export interface EncodedCommands {
  readonly numbers: Float64Array;
  readonly handles: readonly NativeHandle[];
  readonly scalars: Uint8Array;
}

export class CommandEncoder {
  readonly #device: ResourceOwner;
  readonly #limits: Target['limits'];
  readonly #numbers: number[] = [];
  readonly #handles: NativeHandle[] = [];
  readonly #indices = new Map<NativeHandle, number>();
  readonly #scalars: number[] = [];

  constructor(device: ResourceOwner, limits: Target['limits']) {
    this.#device = device;
    this.#limits = limits;
  }

  /** Checks every command. Throws TuttiError E_USAGE. */
  encode(commands: readonly Command[]): EncodedCommands {
    for (const command of commands) this.#command(command);
    return {
      numbers: Float64Array.from(this.#numbers),
      handles: this.#handles,
      scalars: Uint8Array.from(this.#scalars),
    };
  }

  #command(command: Command): void {
    switch (command.kind) {
      case 'dispatch':
        this.#dispatch(command);
        return;
      case 'copy':
        checkCopy(command.from, command.to);
        this.#numbers.push(opcodes.copy, ...this.#range(command.from), ...this.#range(command.to));
        return;
      case 'fill':
        checkFill(command.to, command.byte);
        this.#numbers.push(opcodes.fill, ...this.#range(command.to), command.byte);
        return;
      case 'barrier':
        this.#numbers.push(opcodes.barrier);
        return;
      default:
        command satisfies never;
    }
  }

  #dispatch(command: Extract<Command, { kind: 'dispatch' }>): void {
    const { kernel, grid, bindings, scalars = new Uint8Array() } = command;
    if (!(kernel instanceof AddonKernel)) throw foreignError('kernel');
    const handle = kernel.handleFor(this.#device, 'kernel');
    checkDispatch(command, kernel.code, this.#limits);
    this.#numbers.push(opcodes.dispatch, this.#handle(handle), ...grid, bindings.length);
    for (const binding of bindings) this.#numbers.push(...this.#range(binding));
    this.#numbers.push(this.#scalars.length, scalars.byteLength);
    for (const byte of scalars) this.#scalars.push(byte);
  }

  #range({ buffer, offset, bytes }: BufferRange): readonly [number, number, number] {
    return [this.#handle(AddonBuffer.handle(buffer, this.#device)), offset, bytes];
  }

  #handle(handle: NativeHandle): number {
    let index = this.#indices.get(handle);
    if (index === undefined) {
      index = this.#handles.length;
      this.#indices.set(handle, index);
      this.#handles.push(handle);
    }
    return index;
  }
}

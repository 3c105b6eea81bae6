/** Whether a device may still be used, and the errors that it owes its callers. */
import { TuttiError } from '../../compiler/error.js';
import type { DeviceLoss } from '../backend.js';
import { closedError } from '../common/errors.js';

export class Health {
  readonly device: string;
  open = true;
  loss: DeviceLoss | undefined;
  /** An error the device reported late; the next submission to settle carries it. */
  #fault: TuttiError | undefined;

  constructor(device: string) {
    this.device = device;
  }

  /** Throws E_DEVICE_CLOSED or E_DEVICE_LOST. */
  check(): void {
    if (!this.open) throw closedError(this.device);
    if (this.loss) throw this.lossError();
  }

  get faulty(): boolean {
    return this.#fault !== undefined;
  }

  report(fault: TuttiError): void {
    this.#fault ??= fault;
  }

  /** The late error, once. */
  takeFault(): TuttiError | undefined {
    const fault = this.#fault;
    this.#fault = undefined;
    return fault;
  }

  lossError(): TuttiError {
    return new TuttiError('E_DEVICE_LOST', `the device was lost: ${this.loss?.reason ?? 'unknown'}`, {
      subject: this.device,
    });
  }

  /** Why a submission failed: the loss, a late error, or what WebGPU said. */
  failure(cause: unknown): TuttiError {
    if (this.loss) return this.lossError();
    const words = cause instanceof Error ? cause.message : String(cause);
    return (
      this.takeFault() ?? new TuttiError('E_DEVICE', `a submission failed: ${words}`, { subject: this.device, cause })
    );
  }
}

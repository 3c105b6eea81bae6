/** Tensors of users that lie on a session's device. */
import type { Device, HostRead } from '../backends/backend.js';
import { bytesOf } from '../compiler/dtype.js';
import { TuttiError } from '../compiler/error.js';
import { emptyTensor, type HostTensor, sizeOf } from '../compiler/tensor.js';
import { type OnDevice, readInto } from './chain.js';
import type { Residents } from './residents.js';
import { dtypeOfType, Tensor, type TensorData, type TensorType, typeOfDType } from './tensor.js';
import { wireBytes } from './wire.js';

export class DeviceTensors {
  readonly device: Device;
  readonly #residents: Residents;

  constructor(device: Device, residents: Residents) {
    this.device = device;
    this.#residents = residents;
  }

  /** Takes over the share in the memory. */
  wrap({ dtype, shape, resident }: OnDevice): Tensor {
    const { device } = this;
    const read = async (type: HostTensor['dtype'], dims: readonly number[]): Promise<HostTensor> => {
      const reads: HostRead[] = [];
      const tensor = readInto({ dtype: type, shape: dims, resident: resident.hold() }, reads);
      try {
        if (reads.length > 0) await device.queue.submit({ reads });
      } finally {
        resident.release();
      }
      return tensor;
    };
    return new Tensor(typeOfDType(dtype), { device, resident, read }, shape);
  }

  /** A tensor with the data given, or zeros. @throws TuttiError E_INPUT, E_OUT_OF_MEMORY */
  async create(type: TensorType, dims: readonly number[], data?: TensorData): Promise<Tensor> {
    const given = data === undefined ? undefined : new Tensor(type, data, dims).toHost();
    return this.upload(given ?? emptyTensor(dtypeOfType(type), dims));
  }

  async upload(tensor: HostTensor): Promise<Tensor> {
    const { dtype, shape } = tensor;
    if (dtype === 'string') {
      throw new TuttiError('E_INPUT', 'strings do not lie on a device', { expected: 'numbers or bools' });
    }
    const resident = this.#residents.take(bytesOf(dtype, sizeOf(shape)));
    await this.fill(tensor, resident);
    return this.wrap({ dtype, shape, resident });
  }

  /** Overwrites what is there, after everything that was submitted before. */
  async fill(tensor: HostTensor, resident: OnDevice['resident']): Promise<void> {
    const data = wireBytes(tensor);
    if (data.byteLength > 0) await this.device.queue.submit({ writes: [{ to: resident.range(), data }] });
  }
}

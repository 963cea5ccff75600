/** The addon's own calls, which compute on the CPU and on tensors that are there: they cannot be traced. */
import { graphBinding } from './backend.ts';
import type { GraphBinding } from './binding.ts';

/** Whether there are such: without our addon and on a GPU there are none. */
export function canCallNatively(): boolean {
  return graphBinding()?.isUsingGpuDevice() === false;
}

/** @throws Error where there are none */
export function nativeCalls(): GraphBinding {
  const binding = graphBinding();
  if (!binding || !canCallNatively())
    throw new Error('Native calls need the addon and the CPU: ask canCallNatively() first.');
  return binding;
}

/** Values and gradients against float64 references made with torch; see packages/engine/fixtures. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { openSafetensors, widenToFloat32 } from '@anneal/safetensors';

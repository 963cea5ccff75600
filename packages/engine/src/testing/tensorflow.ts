/** Loads TensorFlow for a test file; the first run on a machine builds the addon. */
import { installAddon, prepareTensorflow } from '@anneal/tensorflow';

process.env.TF_CPP_MIN_LOG_LEVEL ??= '2';
const { addonPath } = await prepareTensorflow();
if (!addonPath) throw new Error('Engine tests need the addon that Anneal builds.');
installAddon(addonPath);

export { type App, type AppDeps, buildApp } from './build-app.ts';
export { ServedModel, ServerConfig, type ServerConfigInput } from './config.ts';
export { ApiError, type ErrorCode } from './errors.ts';
export { type AdapterImport, type ImportedCheckpoint, importAdapter } from './import-adapter.ts';
export { type StoreConfig, withStoreBeside } from './open-store.ts';
export { StartError } from './start-error.ts';
export { type RunningServer, type StartOptions, startServer } from './start-server.ts';

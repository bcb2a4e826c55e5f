export { getLoadablePath, getPreloadPath, isConflict, load, open, uri } from "./index.cjs";

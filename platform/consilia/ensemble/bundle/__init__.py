"""An ensemble as a folder of JSON and safetensors that is checked before it is trusted."""

//! Boots the image on every machine it must run on, and on what it must refuse.

mod bad_input;
mod commands;
mod console;
mod devices;
mod machines;
mod programs;
mod script;
mod sessions;
mod several_cpus;
mod terminals;

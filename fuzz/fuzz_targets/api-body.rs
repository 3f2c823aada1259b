#![no_main]

tombolo_fuzz::target!(tombolo_api::fuzz::body);

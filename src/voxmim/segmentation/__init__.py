"""From a trained segmentor to label maps and to numbers about them."""

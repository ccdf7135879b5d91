# SPDX-License-Identifier: Apache-2.0
"""Renders shots and their masks with Blender's path tracer, Cycles. Needs bpy."""

import math
from pathlib import Path
from typing import Any, Final, NamedTuple

import bpy
import cv2
import numpy as np
from mathutils import Matrix as BlenderMatrix
from numpy.typing import NDArray

from surgseg_ros.core.labels import BACKGROUND
from tools.path_tracing.exposure import Light
from tools.path_tracing.lighting import USUAL_DISTANCE_SQUARED, Lighting
from tools.path_tracing.materials import Cloth, Surface
from tools.path_tracing.scene import Shot
from tools.path_tracing.shaders import (
    cloth_material,
    label_material,
    surface_material,
    tissue_material,
)
from tools.path_tracing.shapes import Face, Mesh, Part, Plate
from tools.path_tracing.tissue import Tissue
from tools.path_tracing.transforms import Matrix
from tools.path_tracing.view import ASPECT, View

_RENDERED: Final = 2 / 3
"""Size at which light is rendered: takes half the time, and endoscopes' images are not sharper."""

_BRIGHTEST: Final = 4.0
"""Light is limited to this multiple of its 96th percentile, so that highlights do not ring."""

_DIRECT_LIMIT: Final = 40.0
_INDIRECT_LIMIT: Final = 10.0
"""Limits of a sample's light at the usual distance: brighter ones would stay as specks."""

_CYCLES: Final[dict[str, Any]] = {
    'device': 'CPU',
    'adaptive_threshold': 0.03,
    'denoiser': 'OPENIMAGEDENOISE',
    'denoising_input_passes': 'RGB_ALBEDO',
    'denoising_prefilter': 'FAST',
    'denoising_quality': 'FAST',
    'max_bounces': 3,
    'diffuse_bounces': 1,
    'glossy_bounces': 2,
    'transmission_bounces': 2,
    'caustics_reflective': False,
    'caustics_refractive': False,
    'blur_glossy': 0.5,
}
"""Settings of Cycles for a few samples per pixel, whose noise is removed by a network."""

_EXACT: Final = 0.01
"""Width in pixels of the filter for masks: a ray through the middle of each pixel."""


class Quality(NamedTuple):
    """
    How to render.

    :param width_px: width of the images.
    :param samples: samples per pixel.
    :param threads: number of threads.
    """

    width_px: int = 640
    samples: int = 9
    threads: int = 1

    @property
    def height_px(self) -> int:
        """Return the height of the images."""
        return round(self.width_px * ASPECT)


class Rendered(NamedTuple):
    """The (H, W, 3) float32 linear RGB light of a shot, and its (H, W) uint8 class indices."""

    light: Light
    mask: NDArray[np.uint8]


class MaskError(RuntimeError):
    """A mask that is not exact, since Cycles mixed the labels of different objects."""


class Renderer:
    """
    Blender with one piece of tissue, of which shots are rendered one at a time.

    :param tissue: the tissue.
    :param quality: how to render.
    :param folder: an existing folder for temporary files.
    """

    def __init__(self, tissue: Tissue, quality: Quality, folder: Path) -> None:
        self._quality = quality
        self._file = folder / 'render.exr'
        bpy.ops.wm.read_factory_settings(use_empty=True)
        self._scene = bpy.context.scene
        _configure(self._scene, quality, self._file)
        self._label_material = label_material()
        _add_mesh(tissue.mesh(), tissue_material(tissue), BACKGROUND, 180)

    def render(self, shot: Shot, seed: int) -> Rendered:
        """
        Render the light and the mask of a shot.

        :param shot: the shot.
        :param seed: seed of the samples.
        :return: its light and mask.
        :raises MaskError: if the mask is not exact.
        """
        materials: dict[Surface | Cloth, Any] = {}
        objects = [_add_part(part, materials) for part in shot.parts]
        hidden = [item for item, part in zip(objects, shot.parts) if part.mask_only]
        camera = _add_camera(shot.view, shot.lighting)
        lamps = _add_lamps(shot.lighting)
        self._scene.camera = camera
        self._scene.cycles.seed = seed
        for item in hidden:
            item.hide_render = True
        light = self._light(shot)
        for item in hidden:
            item.hide_render = False
        camera.data.dof.use_dof = False
        mask = self._mask()
        _remove([*objects, camera, *lamps])
        return Rendered(light, mask)

    def _light(self, shot: Shot) -> Light:
        limit = USUAL_DISTANCE_SQUARED / shot.view.focus_cm**2
        lighting = shot.lighting
        self._set_surroundings(lighting.surroundings, lighting.surroundings_strength)
        self._set_sampling(
            samples=self._quality.samples,
            use_denoising=True,
            use_adaptive_sampling=True,
            filter_width=1.5,
            sample_clamp_direct=_DIRECT_LIMIT * limit,
            sample_clamp_indirect=_INDIRECT_LIMIT * limit,
        )
        bpy.context.view_layer.material_override = None
        light = self._run(_RENDERED)
        brightest = _BRIGHTEST * np.percentile(light, 96) + 1e-9
        size = (self._quality.width_px, self._quality.height_px)
        limited = np.minimum(light, np.float32(brightest))
        return np.maximum(cv2.resize(limited, size, interpolation=cv2.INTER_CUBIC), 0)

    def _mask(self) -> NDArray[np.uint8]:
        self._set_surroundings((0.0, 0.0, 0.0), 0.0)
        self._set_sampling(
            samples=1,
            use_denoising=False,
            use_adaptive_sampling=False,
            filter_width=_EXACT,
            sample_clamp_direct=0,
            sample_clamp_indirect=0,
        )
        bpy.context.view_layer.material_override = self._label_material
        values = self._run(1.0)[..., 0]
        mask = np.rint(values).astype(np.uint8)
        if inexact := int((np.abs(values - mask) > 1e-3).sum()):
            raise MaskError(f'{inexact} pixels of the mask are not class indices')
        return mask

    def _set_sampling(self, **settings: Any) -> None:
        for name, value in settings.items():
            setattr(self._scene.cycles, name, value)

    def _set_surroundings(self, colour: tuple[float, float, float], strength: float) -> None:
        inputs = self._scene.world.node_tree.nodes['Background'].inputs
        inputs['Color'].default_value = (*colour, 1.0)
        inputs['Strength'].default_value = strength

    def _run(self, share: float) -> Light:
        """Render at a share of the image's size; return (H, W, 3) float32."""
        render = self._scene.render
        render.resolution_x = int(self._quality.width_px * share)
        render.resolution_y = int(self._quality.height_px * share)
        bpy.ops.render.render(write_still=True)
        image = bpy.data.images.load(str(self._file))
        image.colorspace_settings.name = 'Non-Color'
        width, height = image.size
        values = np.empty(width * height * 4, np.float32)
        image.pixels.foreach_get(values)
        bpy.data.images.remove(image)
        return values.reshape(height, width, 4)[::-1, :, :3].copy()


def _configure(scene: Any, quality: Quality, file: Path) -> None:
    """Set everything that is the same for all shots."""
    scene.render.engine = 'CYCLES'
    for name, value in _CYCLES.items():
        setattr(scene.cycles, name, value)
    scene.render.resolution_percentage = 100
    scene.render.threads_mode = 'FIXED'
    scene.render.threads = quality.threads
    scene.render.use_persistent_data = True
    scene.render.image_settings.file_format = 'OPEN_EXR'
    scene.render.image_settings.color_depth = '32'
    scene.render.image_settings.exr_codec = 'NONE'
    scene.render.filepath = str(file)
    scene.view_settings.view_transform = 'Raw'
    scene.world = bpy.data.worlds.new('surroundings')


def _add_part(part: Part, materials: dict[Surface | Cloth, Any]) -> Any:
    """Add an object; parts with the same surface share its material."""
    surface, shape = part.surface, part.shape
    mesh = part.finished(plate_mesh(shape) if isinstance(shape, Plate) else shape)
    if isinstance(surface, Cloth):
        material = materials.get(surface) or cloth_material(surface)
    else:
        material = materials.get(surface) or surface_material(surface)
    materials[surface] = material
    if isinstance(surface, Cloth) or surface.pattern is None:
        mesh = mesh._replace(uv=None)  # nothing needs it
    return _add_mesh(mesh, material, part.label, part.smooth_deg)


def _add_mesh(mesh: Mesh, material: Any, label: int, smooth_deg: float) -> Any:
    data = bpy.data.meshes.new('part')
    data.from_pydata(mesh.vertices.tolist(), [], mesh.faces)
    if mesh.uv is not None:
        corners = np.concatenate([_unwrapped(mesh.uv, face) for face in mesh.faces])
        layer = data.uv_layers.new(name='uv')
        layer.data.foreach_set('uv', corners.astype(np.float32).ravel())
    data.validate()
    data.polygons.foreach_set('use_smooth', np.ones(len(data.polygons), bool))
    if smooth_deg < 180:
        data.set_sharp_from_angle(angle=math.radians(smooth_deg))
    data.materials.append(material)
    item = bpy.data.objects.new('part', data)
    item.pass_index = label
    bpy.context.collection.objects.link(item)
    return item


def _unwrapped(uv: NDArray[np.float64], face: Face) -> NDArray[np.float64]:
    """Return the positions of a face's corners; across the seam of a tube, they continue."""
    corners = uv[list(face)]
    around = corners[:, 1]
    if len(face) == 4 and around.max() - around.min() > 0.5:
        around[around < 0.5] += 1
    return corners


def plate_mesh(plate: Plate) -> Mesh:
    """
    Make a mesh of a plate, as Blender extrudes and bevels a curve.

    :param plate: the plate.
    :return: its mesh, without UV.
    """
    curve = bpy.data.curves.new('plate', 'CURVE')
    curve.dimensions, curve.fill_mode = '2D', 'BOTH'
    bevel = min(plate.bevel, plate.half_thickness * 0.95)
    curve.extrude, curve.bevel_depth = plate.half_thickness - bevel, bevel
    curve.bevel_resolution = 1
    curve.offset = -bevel  # the bevel adds it again
    for polygon in (plate.outline, *plate.holes):
        spline = curve.splines.new('POLY')
        spline.points.add(len(polygon) - 1)
        corners = np.zeros((len(polygon), 4))
        corners[:, :2], corners[:, 3] = polygon, 1
        spline.points.foreach_set('co', corners.ravel())
        spline.use_cyclic_u = True
    item = bpy.data.objects.new('plate', curve)
    bpy.context.collection.objects.link(item)
    evaluated = item.evaluated_get(bpy.context.evaluated_depsgraph_get())
    data = bpy.data.meshes.new_from_object(evaluated)
    vertices = np.empty(len(data.vertices) * 3)
    data.vertices.foreach_get('co', vertices)
    faces = [tuple(polygon.vertices) for polygon in data.polygons]
    bpy.data.objects.remove(item)
    bpy.data.curves.remove(curve)
    bpy.data.meshes.remove(data)
    return Mesh(vertices.reshape(-1, 3), faces)


def _add_camera(view: View, lighting: Lighting) -> Any:
    data = bpy.data.cameras.new('camera')
    data.angle_x = view.angle
    data.clip_start = 0.05
    data.dof.use_dof = True
    data.dof.focus_distance = lighting.focus_cm
    # Blender takes its unit, here 1 cm, for 1 m; its focal length is in mm.
    data.dof.aperture_fstop = data.lens / 1000 / (2 * lighting.lens_radius_cm)
    return _linked('camera', data, view.pose)


def _add_lamps(lighting: Lighting) -> list[Any]:
    added = []
    for lamp in lighting.lamps:
        data = bpy.data.lights.new('lamp', 'SPOT')
        data.energy = lamp.power_w
        data.shadow_soft_size = lamp.radius_cm
        data.spot_size = lighting.cone
        data.spot_blend = 1.0
        added.append(_linked('lamp', data, lamp.pose))
    return added


def _linked(name: str, data: Any, pose: Matrix) -> Any:
    item = bpy.data.objects.new(name, data)
    item.matrix_world = BlenderMatrix(pose.tolist())
    bpy.context.collection.objects.link(item)
    return item


def _remove(objects: list[Any]) -> None:
    """Remove objects and their data, so that the next shot starts with the tissue alone."""
    for item in objects:
        data = item.data
        bpy.data.objects.remove(item)
        bpy.data.batch_remove([data])
